"""The documents: links lead somewhere, commands would be accepted, code runs, fields exist."""

import ast
import copy
import re
import shlex
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from configs import default
from yoda_jax import main
from yoda_jax.configuration import fields

ROOT = Path(__file__).parents[1]
ROOMS = ("configs", "launch", "tests", "yoda_jax")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(p for r in ROOMS for p in (ROOT / r).rglob("*.md"))])
OF_A_RUN = ("eval", "export", "show", "upscale", "sweep")  # modes that need no --config
WITHOUT_PICTURES = ("show", "compile", "import", "export")
GROUPS = [name for name, value in default.get_config().items() if hasattr(value, "items")]


def divided(text):
    """(prose, blocks) of a document; a block is (language, its lines), "" where it names none."""
    prose, blocks, fenced, before = [], [], False, ""
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
            if fenced:
                blocks.append((line.removeprefix("```").strip(), []))
        elif fenced:
            blocks[-1][1].append(line)
        elif line.startswith("    ") and (not before.strip() or before.startswith("    ")):
            if not before.strip():
                blocks.append(("", []))
            blocks[-1][1].append(line[4:])
        else:
            prose.append(line)
        before = line
    return "\n".join(prose), blocks


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def commands():
    """(document, command) of all blocks that are not said to be in a language of their own."""
    for path in DOCUMENTS:
        for language, lines in divided(path.read_text())[1]:
            if language in ("", "sh", "bash"):
                joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
                yield from ((name_of(path), line) for line in joined.splitlines() if line.strip())


def check_job(arguments):
    """The flags of a job are parsed and checked as by the program, and nothing is run."""
    argv, values = ["yoda_jax", *arguments], flags.FlagValues()
    for flag in flags.FLAGS.flags_by_module_dict()[main.__name__]:
        if flag.name != "config":
            flags.DEFINE_flag(copy.deepcopy(flag), values)
    given = any(argument.startswith("--config=") for argument in arguments)
    if given:
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    else:
        config = default.get_config()
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    assert len(values(argv)) == 1, f"{values(argv)[1:]} are no flags"
    mode = values.mode or values.config.mode
    of_a_run = mode == "upscale" or (mode in OF_A_RUN and values.workdir)
    assert given or of_a_run, "--config is missing"
    fields.validate(values.config, mode)
    if given and mode not in WITHOUT_PICTURES:
        fields.require_source(values.config)
    paths = {"import": ["input"], "upscale": ["input"], "export": ["output"]}
    for needed in paths.get(mode, []):
        assert values[needed].value, f"--{needed} is missing"


def check_bench(module, arguments):
    """Without importing it, since benchmarks need packages of their own."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    added = [c.args[0].value for c in calls if getattr(c.func, "attr", "") == "add_argument"]
    assert {a.split("=")[0] for a in arguments if a.startswith("--")} <= set(added)


def check(command):
    """Raises an error for a command that would not be accepted."""
    match shlex.split(command, comments=True):
        case ["bash", script, *arguments]:
            assert (ROOT / script).is_file() and Path(script).parent.name == "launch"
            if script == "launch/demo.sh":
                check_job(["--config=configs/demo.py", *arguments])
            elif script == "launch/processes.sh":
                assert int(arguments[0]) > 1
                check_job(arguments[1:])
            elif script == "launch/tpu_pod.sh":
                assert f"\n{arguments[0]})" in (ROOT / script).read_text(), "no such command"
                if len(arguments) > 1:
                    check_job(arguments[1:])
        case ["sbatch", *arguments]:
            script = next(i for i, a in enumerate(arguments) if not a.startswith("--"))
            assert (ROOT / arguments[script]).is_file()
            check_job(arguments[script + 1 :])
        case ["python", "-m", "yoda_jax.main", *arguments]:
            check_job(arguments)
        case ["python", "-m", module, *arguments] if module.startswith("tests."):
            check_bench(module, arguments)
        case ["python", "-m", "pytest", *arguments]:
            assert all((ROOT / a).exists() for a in arguments if not a.startswith("-"))
        case ["python", "-c", code]:
            ast.parse(code)
        case ["pip", "install", *arguments]:
            own = [extra for a in arguments for extra in re.findall(r"^\.\[(.+)\]$", a)]
            packaging = (ROOT / "setup.py").read_text()
            assert all(f'"{e}": [' in packaging for extras in own for e in extras.split(","))
        case ["source", ".venv/bin/activate"] | ["tensorboard", "--logdir", _] | ["export", *_]:
            pass
        case _:
            raise AssertionError("unknown command")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("document", "command"), list(commands()))
def test_commands_would_be_accepted(document, command):
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        "make all",
        "bash launch/nothing.sh",
        "bash launch/demo.sh --config.train.step=1",
        "pip install -e .[nothing]",
        "python -m tests.bench.step --network small",
        "python -m pytest tests/nothing",
        "python -m yoda_jax.main --config=configs/nothing.py",
        "python -m yoda_jax.main --config=configs/sr3_photos.py:nothing",
        "python -m yoda_jax.main --config=configs/demo.py --nothing=1",
        "python -m yoda_jax.main --config=configs/demo.py nothing",
        "python -m yoda_jax.main --config=configs/demo.py --config.data.nothing=1",
        "python -m yoda_jax.main --config=configs/demo.py --config.train.steps=many",
        "python -m yoda_jax.main --config=configs/demo.py --config.mask.times=always",
        "python -m yoda_jax.main --config=configs/default.py",
        "python -m yoda_jax.main --mode=train --workdir=runs/demo",
        "python -m yoda_jax.main --mode=export --workdir=runs/demo",
    ],
)
def test_commands_that_would_not_be_accepted_are_noticed(command):
    with pytest.raises((AssertionError, AttributeError, OSError, ValueError, flags.Error)):
        check(command)


def anchors(text):
    """What headings can be linked by: lower case, hyphens for spaces, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", divided(text)[0], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_and_pictures_lead_somewhere(path):
    prose = re.sub(r"`[^`]*`", "", divided(path.read_text())[0])
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target.read_text()), f"{link} has no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_fields_that_are_named_exist(path):
    config, prose = default.get_config(), divided(path.read_text())[0]
    names = rf"(?:(?<=--config\.)|(?<![\w/.]))({'|'.join(GROUPS)})\.([a-z_]+)"
    for code in re.findall(r"`([^`]+)`", prose):
        for group, field in re.findall(names, code):
            assert field in config[group] or field == "py", f"{group}.{field} is no field"


def test_code_runs(capsys):
    code = [
        "\n".join(lines)
        for path in DOCUMENTS
        for language, lines in divided(path.read_text())[1]
        if language == "python"
    ]
    for block in code:
        exec(compile(block, "README.md", "exec"), {})
    assert len(code) == 1
    assert capsys.readouterr().out == "[0. 0. 1. 1.]\n"


def test_the_first_page_is_short_and_names_every_room():
    path = ROOT / "README.md"
    assert path.stat().st_size <= 11_000
    text = path.read_text()
    for room in (ROOT / "yoda_jax").iterdir():
        name = f"{room.name}/" if room.is_dir() else room.name
        assert name.startswith("__") or f"`{name}`" in text, f"{name} is not named"
