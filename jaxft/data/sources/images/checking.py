"""Decodes all images of a data set once, so that broken and dark ones are known before a run starts."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import PIL

from jaxft.data.sources import files
from jaxft.data.sources.images.decoding import MAX_PIXELS, BrokenImage
from jaxft.data.sources.images.decoding_pool import DecodingPool, ImageRequest
from jaxft.data.sources.images.preparation import Hashing
from jaxft.data.sources.images.reading import ImageExample
from jaxft.errors import UserError
from jaxft.io.files import write_json
from jaxft.io.locks import lock

_DARK = 15  # the largest value of pixels that 12 bits of 16 make of 8
_SHOWN = 3  # broken images in a message
_CHUNK = 1024  # images whose results are awaited at a time
_MANY = 5000  # images that take long enough for a line of the log


class Result(TypedDict, total=False):
    """Holds what is found of an image."""

    problem: str  # why it cannot be decoded; if so, there is nothing else
    digest: str  # a hash of its content
    brightest: int  # the largest value of its pixels, of 255


def check_images(
    examples: Sequence[ImageExample],
    pool: DecodingPool,
    *,
    name: str,
    on_broken: str = "refuse",
    max_pixels: int = MAX_PIXELS,
    cache_folder: Path | None = None,
    log: files.Log = files.log_nothing,
) -> list[ImageExample]:
    """Returns the examples whose images can be decoded, each with the digest of its content; warns of dark images.

    Args:
      examples: the examples.
      pool: decodes the images.
      name: the name of the data set, for messages.
      on_broken: "refuse" raises an error for broken images; "skip" leaves them out and logs which.
      max_pixels: the most pixels of an image.
      cache_folder: the folder that keeps digests; None for no cache. Images in files of the same paths, sizes and
        times of change are not decoded again, unless they were broken.
      log: prints a line about broken images, and about dark ones.

    Raises:
      UserError: images are broken, with their number and the first of them; or with "skip", all are.
    """
    results = _load_or_inspect(examples, pool, Hashing(max_pixels), cache_folder, name, log)
    decoded = [pair for pair in zip(examples, results, strict=True) if "digest" in pair[1]]
    kept = [dataclasses.replace(example, digest=result["digest"]) for example, result in decoded]
    if broken := [result["problem"] for result in results if "problem" in result]:
        images, are = "image" if len(examples) == 1 else "images", "is" if len(broken) == 1 else "are"
        shown = "; ".join(broken[:_SHOWN])
        others = f"; and {len(broken) - _SHOWN:,} more" if len(broken) > _SHOWN else ""
        description = f"{len(broken):,} of {len(examples):,} {images} {are} broken: {shown}{others}"
        if on_broken == "refuse":
            raise UserError(f"{name}: {description}. To leave them out, set config.data.broken=skip")
        if not kept:
            raise UserError(f"{name}: {description}. None is left")
        log(f"warning: {name}: left out, because {description}")
    if dark := [example.origin for example, result in decoded if result["brightest"] <= _DARK]:
        log(
            f"warning: {name}: nearly black, with no value above {_DARK} of 255: {len(dark):,} of {len(kept):,}, such "
            f"as {dark[0]}. Images of 16 bits are read by their upper 8; scale those whose values have 12 or less"
        )
    return kept


def _load_or_inspect(
    examples: Sequence[ImageExample],
    pool: DecodingPool,
    hashing: Hashing,
    cache_folder: Path | None,
    name: str,
    log: files.Log,
) -> list[Result]:
    """Returns what is known of each image; loads what is known of those that were not broken.

    Problems are looked for again, because rights, memory or a disk may have been what an image lacked.
    """
    key = None if cache_folder is None else _identify(examples, hashing)
    if cache_folder is None or key is None:
        return _inspect(examples, pool, hashing, name, log)
    path = cache_folder / f"images-{key[:32]}.json"
    with lock(path, "decodes the same images"):
        results: list[Result] = [{}] * len(examples)
        with contextlib.suppress(OSError, ValueError):  # there is no file, or it is damaged
            known = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(known, list) and len(known) == len(examples):
                results = known
        if unknown := [number for number, result in enumerate(results) if "brightest" not in result]:
            inspected = _inspect([examples[number] for number in unknown], pool, hashing, name, log)
            for number, result in zip(unknown, inspected, strict=True):
                results[number] = result
            with contextlib.suppress(OSError):  # the images are decoded again next time
                write_json(path, results)
    return results


def _inspect(
    examples: Sequence[ImageExample], pool: DecodingPool, hashing: Hashing, name: str, log: files.Log
) -> list[Result]:
    """Decodes all images; returns what is found of each."""
    if len(examples) > _MANY:
        log(f"{name}: {len(examples):,} images are decoded once, to find broken ones")
    results: list[Result] = []
    for start in range(0, len(examples), _CHUNK):
        requests = [
            ImageRequest(example.image, example.origin) for example in examples[start : start + _CHUNK]
        ]
        for result in pool.prepare(hashing, requests):
            if isinstance(result, BrokenImage):
                results.append({"problem": str(result)})
            else:
                results.append({"digest": result[:-1].tobytes().hex(), "brightest": int(result[-1])})
    return results


def _identify(examples: Sequence[ImageExample], hashing: Hashing) -> str | None:
    """Returns a hash of the paths, sizes and times of the images' files; None if not all images are files."""
    digest = hashlib.sha256(f"{PIL.__version__} {hashing.to_json()}".encode())
    for example in examples:
        if not isinstance(example.image, str):
            return None
        try:
            status = os.stat(example.image)
        except (OSError, ValueError):
            return None
        facts = f"{example.origin}\0{example.image}\0{status.st_size} {status.st_mtime_ns}\n"
        digest.update(facts.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
