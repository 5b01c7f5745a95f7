"""The command line: what a person sees and which exit code a script gets."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from smoe_mt import cli
from smoe_mt.errors import UserError
from smoe_mt.launch import command_line


class Module:
    """Stands for a command's module; `run` raises `error`, or remembers its arguments."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.seen: list[object] = []

    def add_arguments(self, parser: object) -> None:
        parser.add_argument("names", nargs="*")  # type: ignore[attr-defined]
        parser.add_argument("--beam", type=int, default=5)  # type: ignore[attr-defined]

    def run(self, args: object) -> None:
        self.seen.append(args)
        if self.error is not None:
            raise self.error


def use_module(monkeypatch: pytest.MonkeyPatch, module: Module) -> None:
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {command} " in out for command in cli.COMMANDS)


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: smoe-mt" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("smoe-mt ")


def test_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dance"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: unknown command 'dance': there are {', '.join(cli.COMMANDS)}\n"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("analyze", "analyse"),
        ("eval", "evaluate"),
        ("traslate", "translate"),
        ("checkpoint inspct", "checkpoint inspect"),
        ("checkpoint conv", "checkpoint convert"),
        ("inspect", "checkpoint inspect"),
        ("preproces", "prepare"),
    ],
)
def test_unknown_command_suggests_the_likely_one(given: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*given.split(), "--beam", "3"]) == 2
    assert capsys.readouterr().err == f"error: unknown command {given!r}: did you mean {meant!r}?\n"


@pytest.mark.parametrize(("rest", "code"), [(["--help"], 0), ([], 2)])
def test_first_word_of_two_lists_its_commands(rest: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["checkpoint", *rest]) == code
    out = capsys.readouterr().out
    assert "checkpoint average" in out and "translate" not in out


def test_user_error_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_module(monkeypatch, Module(UserError("no such thing; use another")))
    assert cli.main(["prepare"]) == 2
    assert capsys.readouterr().err == "error: no such thing; use another\n"


def test_interrupt_gives_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use_module(monkeypatch, Module(KeyboardInterrupt()))
    assert cli.main(["prepare"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_programming_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    use_module(monkeypatch, Module(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["prepare"])


def test_options_may_stand_between_names(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module()
    use_module(monkeypatch, module)
    assert cli.main(["prepare", "one", "--beam", "2", "two"]) == 0
    assert vars(module.seen[0]) == {"names": ["one", "two"], "beam": 2}


def test_wrong_option_gives_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use_module(monkeypatch, Module())
    assert cli.main(["prepare", "--beam", "many"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: argument --beam") and error.count("\n") == 1


def test_a_study_without_a_plan_asks_for_the_plan_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study"]) == 2
    error = capsys.readouterr().err
    assert "PLAN" in error and "KEY=VALUE" not in error


def test_help_of_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use_module(monkeypatch, Module())
    assert cli.main(["prepare", "--help"]) == 0
    assert "usage: smoe-mt prepare" in capsys.readouterr().out


def test_every_command_has_its_module() -> None:
    for command in cli.COMMANDS.values():
        assert callable(cli.importlib.import_module(command.module).run)


SLOW = (
    "torch",
    "fairseq",
    "hydra",
    "omegaconf",
    "safetensors",
    "matplotlib",
    "numpy",
    "sacrebleu",
    "sklearn",
    "scipy",
    "jinja2",
    "transformers",
    "ctranslate2",
    "huggingface_hub",
)


def imported_by(program: str) -> set[str]:
    """Which of the slow libraries a program has imported at its end."""
    program += f"\nimport sys; print(*set({SLOW}) & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stderr.splitlines()[-1].split())


def test_help_of_no_command_imports_what_is_slow() -> None:
    program = "from smoe_mt import cli\nfor name in cli.COMMANDS: assert cli.main([*name.split(), '--help']) == 0"
    assert imported_by(program) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["dance"],
        ["translate", "-m", "runs/nowhere/here"],
        ["translate", "--beam", "many"],
        ["evaluate", "runs/nowhere/here"],
        ["checkpoint", "inspect", "nowhere/a/best.pt"],
        ["export", "runs/nowhere/here", "out"],
        ["report", "runs/nowhere/here"],
        ["analyse", "runs/nowhere/here"],
    ],
)
def test_a_wrong_argument_is_found_before_anything_slow_is_imported(arguments: list[str]) -> None:
    assert imported_by(f"from smoe_mt import cli\ncli.main({arguments})") == set()


def test_every_help_fits_a_terminal_and_has_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in cli.COMMANDS:
        assert cli.main([*name.split(), "--help"]) == 0
        text = capsys.readouterr().out
        assert f"\n  smoe-mt {name}" in text.partition("examples:")[2], name
        assert max(map(len, text.splitlines())) <= 100, name


def test_path_of_the_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["path", "user-dir"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "cli.py").is_file()


def test_missing_configs_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from smoe_mt import paths

    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "site" / "smoe_mt")
    with pytest.raises(UserError, match="no configs folder"):
        paths.configs()


def test_configs_of_a_wheel_lie_in_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from smoe_mt import paths

    package = tmp_path / "site" / "smoe_mt"
    (package / "configs").mkdir(parents=True)
    (tmp_path / "site" / "configs").mkdir()  # some other package's
    monkeypatch.setattr(paths, "PACKAGE", package)
    assert paths.configs() == package / "configs"


def test_configs_of_a_checkout_lie_beside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from smoe_mt import paths

    (tmp_path / "setup.py").touch()
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "smoe_mt")
    assert paths.configs() == tmp_path / "configs"


def test_train_names_the_plugin_before_the_overrides() -> None:
    arguments = command_line(Path("/configs"), "m4", ["model=dense"])
    assert arguments[:4] == ["--config-dir", "/configs", "--config-name", "m4"]
    assert arguments[4].startswith("common.user_dir=") and arguments[5:] == ["model=dense"]


def test_train_leaves_a_plugin_of_ones_own() -> None:
    arguments = command_line(Path("/configs"), "m4", ["common.user_dir=/mine"])
    assert arguments[4:] == ["common.user_dir=/mine"]


def test_train_of_a_table_asks_hydra_for_it() -> None:
    arguments = command_line(Path("/configs"), "m4", ["model=dense,vanilla"], multirun=True)
    assert arguments[4] == "--multirun" and arguments[-1] == "model=dense,vanilla"


def test_train_with_an_unknown_config_names_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text("")
    assert cli.main(["train", "--config", "tiny", "--config-dir", str(tmp_path)]) == 2
    assert "there are small" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.data=/no/such/folder", "error: /no/such/folder: no such data folder"),
        ("tsk.data=x", "error: tsk.data: there is no such setting (did you mean task.data?)"),
    ],
)
def test_what_hydra_or_the_task_refuse_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    """In a process of its own: Hydra keeps its state for as long as one lasts."""
    (tmp_path / "small.yaml").write_text(
        "task:\n  _name: many_to_many_translation\n  data: unset\nmodel:\n  _name: smoe_transformer\n"
    )
    command = [sys.executable, "-c", "import sys; from smoe_mt.cli import main; sys.exit(main(sys.argv[1:]))", "train"]
    command += ["--config", "small", "--config-dir", str(tmp_path)]
    command += [
        override,
        "common.cpu=true",
        "optimization.max_update=1",
        "dataset.max_tokens=100",
        f"hydra.run.dir={tmp_path}",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    """As in `smoe-mt ... | head -1`."""
    program = (
        "import sys; from smoe_mt import cli\n"
        "class Module:\n"
        "    add_arguments = staticmethod(lambda parser: None)\n"
        "    run = staticmethod(lambda args: [print('x' * 1000) for _ in range(1000)])\n"
        "cli.importlib.import_module = lambda name: Module\n"
        "sys.exit(cli.main(['prepare']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait() == 141
    assert "Error" not in errors


def test_a_command_of_two_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = Module()
    use_module(monkeypatch, module)
    for name in ("checkpoint inspect", "checkpoint average"):
        monkeypatch.setitem(cli.COMMANDS, name, cli.Command("some:add_arguments", "some", "help"))
    assert cli.main(["checkpoint", "inspect", "a"]) == 0
    assert cli.main(["average", "b"]) == 0
    assert [args.names for args in module.seen] == [["a"], ["b"]]  # type: ignore[attr-defined]
    assert cli.main(["checkpoint", "dance"]) == 2
    assert "unknown command 'checkpoint dance': there are checkpoint inspect, checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_what_a_command_switches_for_the_process_is_switched_back(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)

    def state() -> tuple[object, ...]:
        talkative = logging.getLogger("fairseq.tasks.text_to_speech")
        shown = (warnings.showwarning, list(warnings.filters))
        return (logging.root.manager.disable, talkative.level, *shown, os.environ.get("OMP_WAIT_POLICY"))

    within: list[tuple[object, ...]] = []

    class Looking(Module):
        def run(self, args: object) -> None:
            within.append(state())
            raise UserError("wrong")

    before = state()
    use_module(monkeypatch, Looking())
    assert cli.main([command]) == 2
    assert state() == before
    assert all(one != other for one, other in zip(within[0], before, strict=True))


def test_a_wait_policy_of_the_users_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with cli.passive_waiting():
        assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_training_leaves_hydras_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq_cli import hydra_train

    seen: list[str | None] = []
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(hydra_train, "cli_main", lambda: seen.append(os.environ.get("HYDRA_FULL_ERROR")))
    assert cli.main(["train", "model=dense"]) == 0
    assert seen == ["1"] and "HYDRA_FULL_ERROR" not in os.environ


def test_help_of_a_group_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["checkpoint", "--help"]) == 0
    out = capsys.readouterr().out
    assert "  checkpoint inspect" in out and "  translate" not in out


@pytest.mark.parametrize("command", ["train", "translate", "evaluate"])
def test_help_has_examples_as_they_are_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    examples = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    assert examples and all(f"smoe-mt {command}" in line for line in examples)
