"""A list of edits: what a line may say, and what becomes of each when others fail."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import pytest
from etils import epath

from imx2mx_jax import compilation, config, edit, jobs, run_folder, series, session, weights
from imx2mx_jax.batch import main
from imx2mx_jax.errors import ConfigError, JobsError, RemoteError, SceneError
from imx2mx_jax.resumable import flat_settings
from imx2mx_jax.terminal import Stop
from tests.cli import support

BEAR = {"scene": "bear", "instruction": "make it day"}


def listed(tmp_path, *lines, check=lambda run: None, more=()):
  file = tmp_path / "jobs.jsonl"
  file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
  out = epath.Path(tmp_path / "out")
  return jobs.read(epath.Path(file), ["batch", support.CONFIG, *more], out, "cpu", check)


def several(tmp_path, count=4):
  return listed(tmp_path, *(BEAR | {"overrides": {"seed": seed}} for seed in range(count)))


class Editor:
  """Finishes edits at once, but for those of the seeds that fail or hear a signal."""

  def __init__(self, fails=(), hears=()):
    self.fails, self.hears, self.edited = fails, hears, []

  def __call__(self, runs, names, stop):
    return [self._editing(run, stop) for run in runs]

  def _editing(self, run, stop):
    yield
    with run_folder.opened(run) as folder:
      self.edited.append(run.seed)
      if run.seed in self.fails:
        raise self.fails[run.seed]
      if run.seed in self.hears:
        stop.heard, stop.obeyed = 15, True
        return
      settings = {"settings": flat_settings(run)}
      (folder.path / "config.json").write_text(json.dumps(settings))
      (folder.path / "finished.json").write_text("{}")


def worked(tmp_path, editor, listed):
  records = series.run(
    listed, [[job] for job in listed], epath.Path(tmp_path / "out"), editor, Stop()
  )
  return [record.status for record in records]


def summary(tmp_path):
  return json.loads((tmp_path / "out" / "summary.json").read_text())


def test_a_line_is_a_scene_an_instruction_and_any_settings(tmp_path):
  overrides = {"optim.lr": 1e-4, "scene.frames": [2, 0], "teacher.cross_view": False}
  (job,) = listed(tmp_path, "", BEAR | {"overrides": overrides})
  assert (job.line, job.run.scene.path, job.run.instruction) == (2, "bear", "make it day")
  assert (job.run.optim.lr, job.run.scene.frames) == (1e-4, (2, 0))
  assert job.run.teacher.cross_view is False
  assert job.run.run_dir == str(tmp_path / "out" / job.name)


def test_a_folder_is_the_same_whatever_becomes_of_the_other_lines(tmp_path):
  _, second = several(tmp_path, 2)
  (alone,) = listed(tmp_path, BEAR | {"overrides": {"seed": 1}})
  assert alone.name == second.name and alone.name.startswith("bear-make-it-day-")


def test_every_broken_line_is_named_before_the_first_edit(tmp_path):
  def no_such_scene(run):
    if run.scene.path == "nowhere":
      raise SceneError("nowhere: there is no such folder")

  with pytest.raises(JobsError) as error:
    listed(
      tmp_path,
      BEAR,
      '{"scene": "bear", ',
      {"scene": "bear"},
      BEAR | {"seed": 1},
      BEAR | {"overrides": {"optim.lrr": 1}},
      BEAR | {"overrides": {"seed": "many"}},
      BEAR | {"overrides": {"distill.dt": 1}},
      BEAR | {"overrides": {"run_dir": "elsewhere"}},
      BEAR | {"overrides": {"seed": None}},
      BEAR | {"scene": "nowhere"},
      [1],
      BEAR,
      '{"scene": "bear", "instruction": "make it \\ud83d day"}',
      '{"scene": "bear", "instruction": "a", "instruction": "b"}',
      BEAR | {"overrides": {"instruction=make it night": "x"}},
      BEAR | {"scene": "nowhere://bear"},
      "[" * 100_000,
      check=no_such_scene,
    )
  told = str(error.value).splitlines()[1:]
  parts = [
    ("line 2: it is not JSON", "write it like"),
    ("line 3: its instruction is missing", ""),
    ("line 4: 'seed' is none of its fields", "overrides"),
    ("line 5: --config.optim.lrr is not a field", "did you mean --config.optim.lr?"),
    ("line 6: --config.seed=many", "a whole number"),
    ("line 7: --config.distill.dt=1", "it must be"),
    ("line 8: run_dir is not for its overrides", ""),
    ("line 9: the value of seed", ""),
    ("line 10: nowhere: there is no such folder", ""),
    ("line 11: it must be an object", ""),
    ("line 12: it is line 1 once more", ""),
    ("line 13: it is not JSON", "surrogates not allowed"),
    ("line 14: it is not JSON", "['scene', 'instruction', 'instruction'] has a name twice"),
    ("line 15: 'instruction=make it night' is no setting's name", ""),
    ("line 16: nowhere://bear cannot be reached", ""),
    ("line 17: it is not JSON", "recursion"),
  ]
  assert len(told) == len(parts)
  for line, (begins, holds) in zip(told, parts, strict=True):
    assert line.strip().startswith(begins) and holds in line


def test_a_line_may_hold_what_other_formats_end_lines_with(tmp_path):
  text = "make it\u2028day"
  first, second = listed(
    tmp_path, json.dumps(BEAR | {"instruction": text}, ensure_ascii=False), BEAR
  )
  assert first.run.instruction == text and second.line == 2


def test_a_table_that_cannot_be_written_for_a_while_ends_no_edit(tmp_path, monkeypatch, capsys):
  write, fails = series._write, [OSError(5, "away"), OSError(5, "away")]

  def write_later(file, content):
    if fails:
      raise fails.pop()
    write(file, content)

  monkeypatch.setattr(series, "_write", write_later)
  assert worked(tmp_path, Editor(), several(tmp_path)) == ["finished"] * 4
  assert capsys.readouterr().err.count("cannot be written (away)") == 2
  assert summary(tmp_path)["counts"]["finished"] == 4


def test_a_record_that_is_none_is_written_anew(tmp_path):
  listed = several(tmp_path, 2)
  worked(tmp_path, Editor(), listed)
  for content in ("", "[]", '{"other": 1}'):
    (tmp_path / "out" / "records" / f"{listed[0].name}.json").write_text(content)
    assert worked(tmp_path, Editor(), listed) == ["finished"] * 2
    assert summary(tmp_path)["counts"]["finished"] == 2


def test_a_mesh_that_cannot_be_is_the_edits_own_mistake(tmp_path):
  (job,) = listed(tmp_path, BEAR | {"overrides": {"mesh.edit": 2, "mesh.fsdp": 8}})
  (work,) = session.edits([job.run], ["line 1"], Stop())
  with pytest.raises(ConfigError, match="mesh"):
    next(work)


def test_one_failure_ends_no_other_edit_and_is_told(tmp_path, capsys):
  fails = {1: SceneError("bear: it is gone"), 2: ZeroDivisionError("a | b\nmore")}
  statuses = worked(tmp_path, Editor(fails), several(tmp_path))
  assert statuses == ["finished", "failed", "failed", "finished"]
  assert "line 2 failed: bear: it is gone" in capsys.readouterr().out
  kept = summary(tmp_path)
  assert kept["counts"] == {"finished": 2, "failed": 2, "stopped": 0, "waiting": 0}
  assert kept["edits"][2]["error"] == "ZeroDivisionError: a | b"
  table = (tmp_path / "out" / "summary.md").read_text().splitlines()
  assert table[0] == "4 edits: 2 finished, 2 failed."
  assert table[4].endswith("/grid.png) |") and table[6].endswith("a \\| b |")


def test_the_same_command_tries_again_what_failed_and_nothing_else(tmp_path):
  listed = several(tmp_path)
  worked(tmp_path, Editor({1: SceneError("gone")}), listed)
  editor = Editor()
  assert worked(tmp_path, editor, listed) == ["finished"] * 4
  assert editor.edited == [1]
  assert summary(tmp_path)["counts"]["finished"] == 4


def test_a_signal_ends_the_list_where_it_can_go_on(tmp_path):
  listed = several(tmp_path)
  assert worked(tmp_path, Editor(hears=[1]), listed) == ["finished", "stopped"]
  assert [row["status"] for row in summary(tmp_path)["edits"]] == [
    "finished",
    "stopped",
    "waiting",
    "waiting",
  ]
  editor = Editor()
  worked(tmp_path, editor, listed)
  assert editor.edited == [1, 2, 3]


@pytest.mark.parametrize(
  ("records", "code"),
  [
    ([series.Record("finished"), series.Record("stopped")], 0),
    ([series.Record("failed", error="it is wrong"), series.Record("finished")], 1),
    ([series.Record("failed", error="it is wrong"), series.Record("busy", passing=True)], 75),
  ],
)
def test_the_exit_code_says_whether_to_try_again(records, code):
  assert series.exit_code(records) == code


def test_a_bucket_that_is_out_of_reach_may_be_tried_again(tmp_path):
  editor = Editor({0: RemoteError("gs://bucket cannot be reached")})
  listed = several(tmp_path, 2)
  assert worked(tmp_path, editor, listed) == ["failed", "finished"]
  assert [row["passing"] for row in summary(tmp_path)["edits"]] == [True, False]


def test_a_preview_is_no_edit_of_a_list(tmp_path):
  with pytest.raises(JobsError, match=r"line 1: --config\.preview is for "):
    listed(tmp_path, BEAR, more=["--config.preview=true"])


def test_an_edit_in_another_process_s_hands_is_left_to_it(tmp_path):
  listed = several(tmp_path, 2)
  editor = Editor()
  with run_folder.opened(listed[0].run):
    assert worked(tmp_path, editor, listed) == ["busy", "finished"]
  assert editor.edited == [1]
  assert summary(tmp_path)["edits"][0]["status"] == "waiting"


def test_a_finished_edit_with_other_settings_is_not_taken_for_this_one(tmp_path):
  listed = several(tmp_path, 1)
  worked(tmp_path, Editor(), listed)
  file = tmp_path / "out" / listed[0].name / "config.json"
  rate = listed[0].run.optim.lr
  file.write_text(file.read_text().replace(f'"optim.lr": {rate}', '"optim.lr": 1'))
  assert worked(tmp_path, Editor(), listed) == ["failed"]
  assert f"--config.optim.lr was 1 and is {rate} now" in summary(tmp_path)["edits"][0]["error"]


def test_hosts_share_a_list_without_doing_anything_twice(tmp_path):
  listed = several(tmp_path, 7)
  shares = [series.share(listed, host, 3) for host in range(3)]
  assert sorted(job.line for share in shares for job in share) == list(range(1, 8))
  assert max(map(len, shares)) - min(map(len, shares)) == 1


@pytest.mark.parametrize("given", [["--host=0"], ["--hosts=2"], ["--host=2", "--hosts=2"]])
def test_a_host_that_cannot_be_is_refused(given, tmp_path, capsys):
  (tmp_path / "jobs.jsonl").write_text("")
  assert main(["batch", support.CONFIG, f"--jobs={tmp_path / 'jobs.jsonl'}", *given]) == 1
  assert "give both" in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ["jobs.jsonl"]


def test_a_process_of_a_pod_is_told_to_be_by_itself(tmp_path, capsys, monkeypatch):
  (tmp_path / "jobs.jsonl").write_text(json.dumps(BEAR))
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  assert main(["batch", support.CONFIG, f"--jobs={tmp_path / 'jobs.jsonl'}"]) == 1
  assert "JAX takes 4 processes for one machine" in capsys.readouterr().err


def test_two_processes_and_one_of_them_killed_finish_a_list_once(tmp_path):
  scene = str(support.SMALL["scene.path"])
  words = ("make it day", "make it sunset", "make it night")
  lines = [{"scene": scene, "instruction": instruction} for instruction in words]
  broken = tmp_path / "broken"
  broken.mkdir()
  (broken / "transforms.json").write_text((pathlib.Path(scene) / "transforms.json").read_text())
  lines.append({"scene": str(broken), "instruction": "make it day"})
  file = tmp_path / "jobs.jsonl"
  file.write_text("\n".join(map(json.dumps, lines)))
  small = [f"--config.{name}={value}" for name, value in SMALL.items()]
  command = [sys.executable, "-W", "error", "-m", "imx2mx_jax.batch", support.CONFIG]
  command += [*small, f"--jobs={file}", f"--out={tmp_path / 'out'}"]

  def started(host):
    options = {"cwd": support.REPOSITORY, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, f"--host={host}", "--hosts=2"], **options)

  with started(0) as first, started(1) as second:
    for line in second.stdout:
      if line.startswith("edit 1"):
        second.kill()
        break
    first.communicate()
    assert first.returncode == 0
  with started(1) as second:
    said, _ = second.communicate()
    assert second.returncode == 1  # its last scene has no pictures
  assert said.splitlines()[-1] == str(tmp_path / "out")
  assert summary(tmp_path)["counts"] == {"finished": 3, "failed": 1, "stopped": 0, "waiting": 0}
  assert len(list((tmp_path / "out").glob("*/finished.json"))) == 3
  assert not list((tmp_path / "out").rglob(".claim*"))


SMALL = {
  "method": "teacher_only",
  "scene.frames": "2,0",
  "scene.reference": "",
  "teacher.size": 24,
  "teacher.steps": 2,
  "student.size": 32,
  "metric_clip": "",
}


def test_an_edit_reads_and_compiles_nothing_that_the_one_before_did(tmp_path, caplog, monkeypatch):
  jax.clear_caches()  # of the tests before
  small = [f"--config.{name}={value}" for name, value in SMALL.items()]
  compiled, read = [], []
  load = weights.load
  monkeypatch.setattr(weights, "load", lambda *args, **kw: read.append(args) or load(*args, **kw))
  kept = functools.partial(edit.load_models, load=weights.keeping())

  def counted(runs, names, stop):
    return [counting(*session.edits(runs, names, stop, kept))]

  def counting(work):
    before = len(caplog.records)
    yield from work
    texts = [record.getMessage() for record in caplog.records[before:]]
    compiled.append([text for text in texts if text.startswith("Compiling")])

  base = {"scene": str(support.SMALL["scene.path"])}
  file = tmp_path / "jobs.jsonl"
  lines = [base | {"instruction": words} for words in ("make it day", "make it sunset")]
  file.write_text("\n".join(map(json.dumps, lines)))
  out = epath.Path(tmp_path / "out")
  two = jobs.read(epath.Path(file), ["batch", support.CONFIG, *small], out, "cpu", session.check)
  with jax.log_compiles():
    records = series.run(two, [[job] for job in two], out, counted, Stop())
  assert [record.status for record in records] == ["finished", "finished"]
  assert compiled[0] and not compiled[1], compiled[1]
  assert len(read) == 1
  grids = [(out / job.name / "grid.png").read_bytes() for job in two]
  assert grids[0] != grids[1]


def test_compiled_programs_are_kept_where_the_user_says(monkeypatch, tmp_path):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.delenv(compilation.VARIABLE)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  assert compilation.folder().parent == tmp_path / "imx2mx_jax"
  monkeypatch.setenv(compilation.VARIABLE, str(tmp_path / "own"))
  assert compilation.folder() == tmp_path / "own"
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
  assert compilation.folder() == tmp_path / "jax"
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.setenv(compilation.VARIABLE, "off")
  assert compilation.folder() is None


def test_without_a_choice_compiled_programs_are_kept(tmp_path):
  program = (
    "import jax; from imx2mx_jax import compilation; compilation.keep();"
    "print(jax.config.jax_compilation_cache_dir)"
  )
  environment = {"PATH": "", "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
  command = [sys.executable, "-c", program]
  shown = subprocess.run(command, env=environment, cwd=support.REPOSITORY, capture_output=True)
  assert shown.stdout.decode().startswith(str(tmp_path / "imx2mx_jax"))


def test_the_number_of_skipped_updates_that_end_a_run_is_checked():
  tree = config.parse(["main", support.CONFIG, "--config.optim.max_skipped=-1"])
  with pytest.raises(config.ConfigError, match="0 or more"):
    config.resolve(tree)
