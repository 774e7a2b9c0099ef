"""Handles a run that is finished: recognises it, removes what only a resume needs, and says what its folder costs."""

import shutil
from pathlib import Path
from typing import Any

from jaxft.config.sections import Settings
from jaxft.io.files import read_json
from jaxft.parallel import processes

UNSAVED = "unsaved_weights"  # in the summary of a run whose weights found no room


def read_finished(workdir: Path, config: Settings) -> dict[str, Any] | None:
    """Returns the summary of a finished run that has no use for checkpoints any more, else None.

    A finished run with checkpoints is restored from the last one and measured again. So is one whose weights found no
    room, or it trains again.
    """
    path = workdir / "summary.json"
    resumes = any((workdir / "checkpoints").glob("*")) and not config.checkpoint.best_only
    summary = read_json(path) if path.exists() and not resumes else None
    return processes.broadcast(None if summary is None or UNSAVED in summary else summary)


def describe_finished(workdir: Path, summary: dict[str, Any]) -> str:
    """Returns a line that says that the run is finished, and how to go on."""
    return (
        f"{workdir} is finished: it has trained for its {summary['steps']:,} steps, the best weights are those of step "
        f"{summary['best_step']:,}, all scores are in summary.json. To train for longer, start a new folder with "
        f"--config.init_from={workdir}"
    )


def keep_best_only(workdir: Path) -> None:
    """Removes the checkpoints of a finished run; process 0 does so for all processes."""
    if processes.is_main_process():
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)


def describe_disk_use(workdir: Path, cache: Path | None) -> str:
    """Returns a line with the size of each folder of a run, and of the cache of encoded data.

    Args:
      workdir: the run's folder.
      cache: the folder of encoded data of all runs; None if there is none.
    """
    names = ("best", "checkpoints", "cache")
    sizes = {f"{name}/": size for name in names if (size := folder_bytes(workdir / name))}
    sizes["everything else"] = folder_bytes(workdir) - sum(sizes.values())
    notes = {
        "checkpoints/": " (to resume from; config.checkpoint.best_only=True removes them when a run is finished)"
    }
    described = [f"{name} {size / 2**20:,.1f} MiB{notes.get(name, '')}" for name, size in sizes.items()]
    if cache is not None and cache != workdir / "cache" and (size := folder_bytes(cache)):
        described.append(f"encoded data of all runs {size / 2**20:,.1f} MiB (in {cache})")
    return f"on disk: {', '.join(described)}"


def folder_bytes(folder: Path) -> int:
    """Returns the bytes of all files below a folder; files that vanish meanwhile count as 0."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
