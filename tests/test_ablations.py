"""python -m benchmarks.ablations, and the two ways to combine the models that only it needs."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks import ablations, unseen
from imx2mx_jax import config, edit, scene, teachers
from imx2mx_jax.metrics import warp
from imx2mx_jax.micro import scenes, world
from imx2mx_jax.models import unet
from imx2mx_jax.models.network import initialise
from tests.cli import support
from tests.test_unet import SHAPE

SMALL = support.SMALL | {"scene.reference": "2", "distill.t_max": 600, "distill.t_min": 200}
ROWS = ["unedited", "teacher with key views", "SDEdit .5"]


def arguments(out, scenes, *more):
  omitted = ("instruction", "scene.path", "log_every", "save_every", "image_every")
  fields = [f"--config.{k}={v}" for k, v in SMALL.items() if k not in omitted]
  rows = f"--rows={','.join(ROWS)}"
  return ["ablations", str(out), "--quick", f"--scenes={scenes}", rows, *fields, *more]


@pytest.fixture(scope="module")
def one_scene(tmp_path_factory):
  folder = tmp_path_factory.mktemp("scenes")
  shutil.copytree(support.SMALL["scene.path"], folder / "scene_05")
  return folder


@pytest.fixture(scope="module")
def done(one_scene, tmp_path_factory):
  out = tmp_path_factory.mktemp("ablations") / "out"
  assert ablations.main(arguments(out, one_scene)) == 0
  return out


def lines(out):
  return [json.loads(line) for line in (out / "cases.jsonl").read_text().splitlines()]


def without_costs(out):
  return [{k: v for k, v in line.items() if k not in ablations.COSTS} for line in lines(out)]


def test_every_row_edits_every_instruction(done):
  found = {(line["row"], line["instruction"]) for line in lines(done)}
  instructions = {instruction for _, instruction in found}
  assert found == {(row, instruction) for row in ROWS for instruction in instructions}
  assert instructions == {"make the cylinder green", "give the cylinder a new color"}


def test_each_case_leaves_its_views_and_its_measures(done):
  for line in lines(done):
    case = ablations.case_name(line["scene"], line["instruction"], line["seed"])
    views = np.asarray(Image.open(done / "pictures" / case / f"{line['row']}.png"))
    assert views.shape[1] == 2 * views.shape[0]
    definite = line["instruction"] == "make the cylinder green"
    assert (line["psnr"] is not None) == definite and (line["color"] is None) == definite
    always = ("sim", "dir", "cons", "warp", "warp_objects", "sharp", *ablations.COSTS)
    assert all(np.isfinite(line[name]) for name in always)
    assert 0.2 < line["memory"] < 30


def test_photographs_are_consistent_and_edits_less_so(done):
  warp = {row: [x["warp"] for x in lines(done) if x["row"] == row] for row in ROWS}
  assert max(warp["unedited"]) < min(warp["teacher with key views"] + warp["SDEdit .5"])


def test_the_tables_hold_what_the_cases_say(done):
  entries = json.loads((done / "ablations.json").read_text())["entries"]
  with (done / "ablations.csv").open() as file:
    assert [row["mean"] for row in csv.DictReader(file)] == [str(row["mean"]) for row in entries]
  means = {e["of"]: e["mean"] for e in entries if (e["row"], e["measure"]) == ("SDEdit .5", "warp")}
  definite, ambiguous = (line["warp"] for line in lines(done) if line["row"] == "SDEdit .5")
  wanted = {"all": (definite + ambiguous) / 2, "definite": definite, "ambiguous": ambiguous}
  assert means == pytest.approx(wanted, abs=1e-5)
  assert "| SDEdit .5 |" in (done / "ablations.md").read_text()
  assert np.asarray(Image.open(done / "ablations.png")).shape[0] > len(ROWS) * 32


def test_a_killed_run_goes_on_after_its_last_whole_line(done, one_scene, tmp_path, capsys, caplog):
  out = shutil.copytree(done, tmp_path / "out")
  kept, cut = lines(out)[:3], lines(out)[3]
  text = "".join(json.dumps(line) + "\n" for line in kept) + json.dumps(cut)[:40]
  (out / "cases.jsonl").write_text(text)
  with jax.log_compiles():
    assert ablations.main(arguments(out, one_scene)) == 0
  assert not [text for text in caplog.messages if text.startswith("Compiling")]
  assert "6 edits, 3 of them finished" in capsys.readouterr().out
  assert lines(out)[:3] == kept
  assert without_costs(out) == without_costs(done)


def test_a_row_that_meant_something_else_is_not_gone_on_with(done, one_scene, tmp_path, capsys):
  out = shutil.copytree(done, tmp_path / "out")
  changed = [line | {"sets": "distill.t_min=9"} for line in lines(out)]
  (out / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
  assert ablations.main(arguments(out, one_scene)) == 1
  error = capsys.readouterr().err
  assert "set 'distill.t_min=9' and sets" in error and error.count("\n") == 1
  assert lines(out) == changed


def test_processes_share_the_cases_and_measure_what_one_does(one_scene, tmp_path):
  rows = "--rows=unedited,truth"
  assert ablations.main(arguments(tmp_path / "one", one_scene, rows)) == 0
  assert ablations.main(arguments(tmp_path / "two", one_scene, rows, "--jobs=2")) == 0
  key = lambda line: (line["row"], line["instruction"])
  one, two = (sorted(without_costs(tmp_path / name), key=key) for name in ("one", "two"))
  assert len(one) == 4
  for alone, shared in zip(one, two, strict=True):
    assert alone == pytest.approx(shared, abs=1e-5)


def test_pixels_that_the_reference_shows_are_told_from_those_that_it_does_not(one_scene):
  task, *_ = ablations.tasks(one_scene / "scene_05", 0)
  read = scene.load_scene(task.folder, (2, 0), size=32)
  known = ablations.truth(task, read, 24)
  kinds = unseen.parts(known.depth, read, 0)
  assert not kinds["seen"][0].any() and not kinds["unseen"][0].any()
  assert not (kinds["seen"] & kinds["unseen"]).any()
  assert ((kinds["seen"] | kinds["unseen"])[1] == (known.depth[1] > 0)).all()
  maps = warp.warp_errors(known.sources, known.depth, read.c2w, read.K).maps
  assert (kinds["seen"][1] == np.isfinite(maps[1, 0])).all()
  assert kinds["seen"].any() and kinds["unseen"].any()


def test_a_finished_table_is_split_by_what_the_reference_shows(done, one_scene, capsys):
  _, out, *rest = arguments(done, one_scene)
  fields = [argument for argument in rest if argument.startswith("--config")]
  assert unseen.main(["unseen", out, f"--scenes={one_scene}", *fields]) == 0
  head, _, unedited, *others, _, shares = capsys.readouterr().out.splitlines()
  assert head == "| row | seen | unseen | seen - full's | unseen - full's |"
  decibels = lambda line: [float(cell) for cell in line.split(" | ")[1:3]]
  assert len(others) == 2 and all(decibels(unedited)[0] < decibels(line)[0] for line in others)
  assert shares.startswith("of all pixels: seen 0.")


def test_a_folder_without_cases_is_named(tmp_path, capsys):
  assert unseen.main(["unseen", str(tmp_path)]) == 1
  assert f"{tmp_path / 'cases.jsonl'}: there is no such file" in capsys.readouterr().err


def test_other_settings_want_another_folder(done, one_scene, capsys):
  assert ablations.main(arguments(done, one_scene, "--config.teacher.steps=3")) == 1
  error = capsys.readouterr().err
  assert "teacher.steps was 2, and it is 3 now" in error and str(done) in error


def test_a_folder_without_scenes_is_named(tmp_path, capsys):
  assert ablations.main(["ablations", str(tmp_path / "out"), f"--scenes={tmp_path}"]) == 1
  assert f"--scenes={tmp_path}: it holds no scene" in capsys.readouterr().err


def test_a_row_changes_its_own_settings_only(one_scene, tmp_path):
  settings = ablations.settings_of([])
  bench = ablations.Bench(tmp_path, settings, None, None)
  task, _, _, _ = ablations.tasks(one_scene / "scene_05", 0)
  runs = {row: bench.run(row, task, 3) for row in (*ablations.EDITS, "full")}
  assert len(set(runs.values())) == len(ablations.EDITS)
  flat = lambda run: config.flat(config.ConfigDict(dataclasses.asdict(run)))
  full = flat(runs["full"])
  for row, changes in ablations.EDITS.items():
    assert flat(runs[row]) == full | changes


def test_a_controlnet_is_told_what_to_show_of_edits_that_its_depth_allows(one_scene, tmp_path):
  settings = ablations.settings_of(["--config.teacher.kind=controlnet"])
  bench = ablations.Bench(tmp_path, settings, None, None)
  asked = [task for i in range(8) for task in ablations.tasks(one_scene / "scene_05", i)]
  kept = [task for task in asked if ablations.keeps_shapes(task)]
  assert 0 < len(kept) < len([task for task in asked if task.target is None])
  cameras = scene.load_scene(one_scene / "scene_05", (2, 0), size=32).c2w
  for task in kept:
    (answer,) = task.answers
    assert bench.run("full", task, 0).instruction == world.caption(answer)
    before, after = (scenes.views(drawn, cameras)[1] for drawn in (task.drawn, answer))
    assert (before == after).all()


def test_edits_of_one_row_share_what_is_compiled_for_them(one_scene, tmp_path):
  settings = ablations.settings_of([])
  bench = ablations.Bench(tmp_path, settings, None, None)
  one, other, _, _ = ablations.tasks(one_scene / "scene_05", 0)
  runs = [bench.run("full", one, 0), bench.run("full", other, 1), bench.run("uniform t", one, 0)]
  models = edit.load_models(runs[0])
  first, second, uniform = (edit._method(run, models) for run in runs)
  assert first == second and hash(first) == hash(second)
  assert first != uniform


def test_half_of_a_scenes_instructions_have_several_right_answers(one_scene):
  for number in range(4):
    tasks = ablations.tasks(one_scene / "scene_05", number)
    assert [len(task.answers) > 1 for task in tasks] == [False, True] * 2
    assert len({task.instruction for task in tasks}) == 4
    for task in tasks[1::2]:
      own = task.drawn.objs[task.target - 2]
      answered = {answer.objs[task.target - 2].color for answer in task.answers}
      assert answered == set(world.COLORS) - {own.color}
      assert own.shape in task.instruction


def test_views_with_different_right_answers_are_not_right(one_scene):
  _, task, _, _ = ablations.tasks(one_scene / "scene_05", 0)
  seen = scene.load_scene(task.folder, (2, 0), size=32)
  known = ablations.truth(task, seen, 24)
  assert known.answers.shape == (7, 2, 24, 24, 3)
  judge = ablations.load_judge(ablations.BUNDLED / "metric_clip")
  mixed = np.stack([known.answers[0, 0], known.answers[4, 1]])
  one, both = (
    ablations.measured(task, known, seen, judge, images) for images in (known.answers[4], mixed)
  )
  assert one["color"] == 0 and both["color"] > 0.1
  assert one["sharp"] == 1
  assert ablations.measured(task, known, seen, judge, known.answers[4] / 2)["sharp"] == 0.5
  assert both["warp_objects"] > 2 * one["warp_objects"]
  assert both["warp_objects"] > both["warp"]


# --- the table, on known numbers -------------------------------------------------------------


def case(row, place, seed, warp):
  other = dict.fromkeys(ablations.MEASURES)
  told = {"row": row, "scene": place, "instruction": "x", "seed": seed, "warp": warp}
  return other | told | {"seconds": 1.5, "memory": 2.0}


KNOWN = [
  *(case("full", "a", seed, warp) for seed, warp in enumerate((0.1, 0.3))),
  case("full", "b", 0, 0.4),
  *(case("uniform t", "a", seed, warp) for seed, warp in enumerate((0.15, 0.35, 0.9))),
  case("uniform t", "b", 0, 0.45),
  case("full", "c", 0, 0.3),
  case("uniform t", "c", 0, 0.35),
]


def test_intervals_are_of_scenes_and_differences_of_shared_cases():
  full, uniform = ablations.summary(KNOWN)
  assert full == {
    "row": "full", "measure": "warp", "cases": 4, "mean": 0.3, "low": 0.2, "high": 0.4
  }  # fmt: skip
  assert uniform["cases"] == 5
  wanted = (np.mean([0.15, 0.35, 0.9]) + 0.45 + 0.35) / 3
  assert uniform["mean"] == pytest.approx(wanted, abs=1e-5)
  differences = [uniform[f"difference_{name}"] for name in ("mean", "low", "high")]
  assert differences == pytest.approx([0.05] * 3)


def test_the_printed_table_has_means_then_differences():
  means, differences = ablations.markdown(KNOWN).split("### ")[1:]
  assert "| full |  |  |  | 0.300 [0.200, 0.400] |  |  |  |  | 4 | 1.5 | 2.0 |" in means
  assert "| uniform t |  |  |  | +0.050 [+0.050, +0.050] |  |  |  |  |" in differences
  assert "full |" not in differences


def test_two_scenes_have_no_interval():
  two = [line for line in KNOWN if line["scene"] != "c"]
  assert "| full |  |  |  | 0.300 |  |  |  |  | 3 | 1.5 | 2.0 |" in ablations.markdown(two)


def test_the_papers_table_stands_beside_the_rows_that_were_run():
  lines = ablations.table_3(KNOWN).splitlines()
  assert len(lines) == 2 + 8
  assert lines[-1] == "| full |  |  |  | 0.337 | 0.263 | 0.178 |"


# --- the teacher with key views, SDEdit ------------------------------------------------------


def test_with_key_views_every_view_depends_on_them():
  network = initialise(unet.UNet, dataclasses.replace(SHAPE, in_channels=8), seed=0)
  text, source, noise = (
    jnp.asarray(normal(name, size))
    for name, size in (("text", (5, 6)), ("source", (2, 4, 4, 4)), ("noise", (3, 2, 4, 4, 4)))
  )
  scales = jnp.float32(2), jnp.float32(1)
  teacher = teachers.InstructPix2Pix(network, text, text * 0, source, *scales)
  other = dataclasses.replace(teacher, source=source.at[1].add(1))
  sample = jax.jit(teachers.edit_views)
  for key_views, reached in ((jnp.array([0, 1]), True), (jnp.array([0, 0]), False)):
    before, after = (sample(x, noise[0], noise[1:], key_views)[-1, 0] for x in (teacher, other))
    assert (np.abs(before - after).max() > 1e-4) == reached


def normal(name, size):
  return np.random.default_rng(len(name)).normal(size=size).astype(np.float32)


def test_sdedit_without_noise_gives_the_teachers_views_back(one_scene):
  tree = config.parse(["main", *support.arguments("", scene__reference="2")])
  tree.method, tree.distill.sdedit = "sdedit", 0.0
  run = config.resolve(tree)
  views = scene.load_scene(run.scene.path, run.scene.frames, size=run.student.size)
  models = edit.load_models(run)
  alone = dataclasses.replace(run, method="teacher_only", student=run.student)
  finished = lambda run: [*edit.edit(run, views, models, None)][-1].images
  found, wanted = finished(run)[1], finished(alone)[1]
  enlarged = np.asarray(Image.fromarray(wanted).resize((32, 32), Image.Resampling.BICUBIC))
  assert np.abs(found - np.float32(enlarged)).mean() < 8
  assert np.abs(views.images[1] * 127.5 + 127.5 - enlarged).mean() > 16  # it is an edit
