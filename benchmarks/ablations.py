"""The paper's ablations and its rivals on held-out scenes of the micro world, where truth is known.

    python -m benchmarks.ablations OUT [--quick] [--jobs=1] [--scenes=FOLDER] [--rows=ROW,ROW]
        [--seeds=2] [--clip=FOLDER] [--config=configs/default.py] [--config.FIELD=VALUE ...]

A case is a scene, an instruction and a seed; each row edits each case with the same settings but
its own. Half of the instructions are ambiguous ("give the cube a new color"): an editor of single
views answers them differently in each view. Without --scenes eight scenes are drawn that no
training draws and no setting was chosen on; --quick takes two, of four instructions two, and one
seed. The rows are the paper's, the teacher with key views and SDEdit fusion; --rows
asks for others. --jobs processes share the cases and a CPU's cores. OUT gets

    cases.jsonl                  a line for each finished edit; the same command goes on after it
    pictures/CASE/ROW.png        the views, side by side
    ablations.md, .csv, .json    means, differences from the full method, 95 % intervals: of all
                                 instructions, of the definite ones, of the ambiguous ones; the
                                 paper's Table 3 beside these rows' CLIP trio
    ablations.png                the first case, a line of views for each row

All pictures are compared at the teacher's size, the smaller one, by

    sim, dir, cons   the paper's CLIP trio; of an ambiguous edit's captions that of the right answer
                     nearest to the views counts
    warp             colour difference in [0, 1] of the views warped to each other by true depth;
                     warp_objects: on objects only
    psnr             decibels to the true edit, of definite edits
    color            root mean square error in [0, 1] on the edited object, of ambiguous edits, to
                     the right answer nearest to all views together
    sharp            mean difference of neighbouring pixels, of the right answer's: below 1 blurred

An edit's seconds, and the most memory that its process held meanwhile, the models included, are
kept too. With --config.teacher.kind=controlnet, which is told what to show and sees only the depth,
definite edits that leave every shape are asked for, by the edited scene's caption.

Intervals are percentiles over resampled scenes, each a mean over its instructions and seeds.
"""

import argparse
import concurrent.futures
import csv
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

import imx2mx_jax
from benchmarks import machine
from imx2mx_jax import compilation, config, edit, pictures, sheets, terminal, tokenizer, weights
from imx2mx_jax.errors import ConfigError, UserError
from imx2mx_jax.evaluate import tables
from imx2mx_jax.metrics import clip_scores, warp
from imx2mx_jax.micro import scenes, world
from imx2mx_jax.models.network import Network
from imx2mx_jax.scene import Scene, load_scene

REPOSITORY = pathlib.Path(__file__).parents[1]
BUNDLED = pathlib.Path(imx2mx_jax.__file__).parent / "micro" / "bundled"
DRAWN, FIRST_SEED = 8, 920_000_000
FULL = "full"
EDITS: dict[str, dict[str, Any]] = {  # row: what it sets
  FULL: {},
  "student only": {"method": "student_only"},
  "teacher only": {"method": "teacher_only"},
  "source reference": {"distill.reference": "source"},
  "learned mapping": {"distill.mapping": "learned"},
  "uniform t": {"distill.teacher_t": "uniform"},
  "matched t": {"distill.teacher_t": "matched"},
  "no RCVAttn": {"teacher.cross_view": False},
  "teacher with key views": {"method": "teacher_cross_view"},
  "SDEdit .25": {"method": "sdedit", "distill.sdedit": 0.25, "distill.t_min": 49},
  "SDEdit .5": {"method": "sdedit", "distill.sdedit": 0.5, "distill.t_min": 49},
  "SDEdit .75": {"method": "sdedit", "distill.sdedit": 0.75, "distill.t_min": 49},
  "coupled sampling": {"method": "coupled"},
  "collaborative": {"method": "collaborative", "distill.t_min": 49, "distill.upper": 950},
  "DGE-like teacher": {"method": "teacher_only", "teacher.extended": True},
  "extended attention": {"teacher.extended": True},
  "upper t 600": {"distill.upper": 600},
  "falling upper t": {"distill.upper": 600, "distill.fall": 450},
  "ending at 649": {"distill.t_min": 649},
  "guidance 2": {"teacher.text_guidance": 2.0},
  "rescaled guidance 2": {"teacher.text_guidance": 2.0, "teacher.rescale": 0.7},
  "unit difference": {"distill.unit": True},
  "averaged student": {"distill.average": 0.9},
  "polished .2": {"output.polish": 0.2},
  "polished .4": {"output.polish": 0.4},
}
TABLE_3 = {  # the paper's: Cons, Sim, Dir
  "student only": (0.014, 0.212, 0.161),
  "teacher only": (0.228, 0.252, 0.184),
  "source reference": (0.326, 0.264, 0.174),
  "learned mapping": (0.287, 0.259, 0.180),
  "uniform t": (0.363, 0.260, 0.146),
  "matched t": (0.435, 0.231, 0.107),
  "no RCVAttn": (0.230, 0.260, 0.175),
  FULL: (0.337, 0.263, 0.178),
}
CONTROLS = ("unedited", "truth")
ROWS = (*CONTROLS, *EDITS)
DEFAULT_ROWS = (
  *CONTROLS,
  *TABLE_3,
  "teacher with key views",
  "SDEdit .25",
  "SDEdit .5",
  "SDEdit .75",
)
MEASURES = ("sim", "dir", "cons", "warp", "warp_objects", "psnr", "color", "sharp")

COSTS = ("seconds", "memory")  # of an edit; memory in GB


def sets(row: str) -> str:
  """What a row sets, in a line."""
  return " ".join(f"{name}={value}" for name, value in EDITS.get(row, {}).items())


@dataclasses.dataclass(frozen=True)
class Task:
  """What is asked of a scene.

  answers: every world that is right. target: id of the object that an ambiguous instruction is
  about; None for definite ones.
  """

  folder: pathlib.Path
  instruction: str
  drawn: world.World
  answers: tuple[world.World, ...]
  target: int | None


@dataclasses.dataclass(frozen=True)
class Truth:
  """A task's pictures, at the teacher's size.

  answers: [A N S S 3]. objects: [N S S], the object that an ambiguous instruction is about, else
  all. depth: 0 where an answer has another one than the photographs, for it is not known there.
  """

  sources: np.ndarray
  answers: np.ndarray
  depth: np.ndarray
  objects: np.ndarray


@dataclasses.dataclass(frozen=True)
class Judge:
  """What the pictures are measured with."""

  clip: Network
  words: Any


def load_judge(folder: pathlib.Path) -> Judge:
  """The metric CLIP. Raises: WeightsError."""
  clip = weights.load(folder, "metric_clip")["clip"]
  return Judge(clip, tokenizer.load(folder / weights.TOKENIZER))


def tasks(folder: pathlib.Path, number: int) -> list[Task]:
  """Two definite and two ambiguous instructions for scene `number`, one of each kind first."""
  told = json.loads((folder / "edits.json").read_text())
  drawn = world.from_json(told["world"])
  definite = [edit for edit in told["edits"] if edit["definite"]]
  one, other = (definite[(number + i) % len(definite)] for i in range(2))
  wordings, last = world.WORDINGS["ambiguous"], len(drawn.objs) - 1
  return [
    _definite(folder, drawn, one),
    _ambiguous(folder, drawn, 0, wordings[0]),
    _definite(folder, drawn, other),
    _ambiguous(folder, drawn, last, wordings[1]),
  ]


def _definite(folder: pathlib.Path, drawn: world.World, told: Mapping[str, Any]) -> Task:
  wanted = told["edited_caption"]
  (answer,) = [one for one in _changed(drawn) if world.caption(one) == wanted]
  return Task(folder, told["instruction"], drawn, (answer,), None)


def _ambiguous(folder: pathlib.Path, drawn: world.World, which: int, wording: str) -> Task:
  obj = drawn.objs[which]
  others = [color for color in world.COLORS if color not in (obj.color, obj.color2)]
  answers = tuple(_with(drawn, which, color=color) for color in others)
  return Task(folder, wording.format(obj.shape), drawn, answers, which + 2)


def _changed(drawn: world.World) -> Iterator[world.World]:
  """Every world that differs in one thing."""
  for i in range(len(drawn.objs)):
    yield from (_with(drawn, i, color=color) for color in world.COLORS)
    yield from (_with(drawn, i, shape=shape) for shape in world.SHAPES)
  yield from (dataclasses.replace(drawn, floor=floor) for floor in world.FLOORS)
  yield from (dataclasses.replace(drawn, sky=sky) for sky in world.SKIES)


def _with(drawn: world.World, which: int, **changes: str) -> world.World:
  objs = list(drawn.objs)
  objs[which] = dataclasses.replace(objs[which], **changes)
  return dataclasses.replace(drawn, objs=tuple(objs))


def truth(task: Task, scene: Scene, size: int) -> Truth:
  """Renders a task's answers from the scene's cameras."""
  rendered = [scenes.views(one, scene.c2w) for one in (task.drawn, *task.answers)]
  nearest = ((np.arange(size) + 0.5) * scenes.SIZE / size).astype(int)
  pick = lambda maps: maps[:, nearest][:, :, nearest]
  source, *depths = [pick(depth) / 1000 for _, depth, _ in rendered]
  same = np.all([np.abs(depth - source) < 0.01 for depth in depths], axis=0)
  ids = pick(rendered[0][2])
  small = lambda images: np.asarray(pictures.teacher_source(pictures.from_8_bits(images), size))
  return Truth(
    sources=np.asarray(pictures.teacher_source(scene.images, size)),
    answers=np.stack([small(images) for images, _, _ in rendered[1:]]),
    depth=np.where(same, source, 0),
    objects=ids >= 2 if task.target is None else ids == task.target,
  )


def measured(
  task: Task, known: Truth, scene: Scene, judge: Judge, images: np.ndarray
) -> dict[str, float | None]:
  """{measure: value}, None where a measure does not apply. images: in [-1, 1], the truth's size."""
  errors = np.square(images - known.answers)[:, known.objects].mean(axis=(1, 2))
  nearest = int(errors.argmin())
  captions = world.caption(task.drawn), world.caption(task.answers[nearest])
  trio = clip_scores.clip_scores(judge.clip, judge.words, known.sources, images, *captions)
  maps = warp.warp_errors(images, known.depth, scene.c2w, scene.K).maps
  on_objects = np.broadcast_to(known.objects[:, None], maps.shape)
  found = trio | {"warp": _mean(maps), "warp_objects": _mean(maps[on_objects])}
  found |= {"sharp": _steps(images) / _steps(known.answers[nearest])}
  if task.target is None:
    return found | {"psnr": _psnr(images, known.answers[0]), "color": None}
  return found | {"psnr": None, "color": float(np.sqrt(errors[nearest]) / 2)}


def _mean(values: np.ndarray) -> float | None:
  """Of what is known."""
  known = values[np.isfinite(values)]
  return float(known.mean()) if known.size else None


def _steps(images: np.ndarray) -> float:
  """The mean difference of neighbouring pixels."""
  return float(np.mean([np.abs(np.diff(images, axis=axis)).mean() for axis in (1, 2)]))


def _psnr(images: np.ndarray, wanted: np.ndarray) -> float:
  """The views' mean. The truth itself has been rounded to 8 bits, so it is finite too."""
  errors = np.square(images - wanted).mean(axis=(1, 2, 3))
  return float((10 * np.log10(4 / errors)).mean())


@dataclasses.dataclass(frozen=True)
class Bench:
  """One output folder with its settings. judge: loaded once, like the models."""

  out: pathlib.Path
  settings: ConfigDict
  models: edit.Models
  judge: Judge

  def run(self, row: str, task: Task, seed: int) -> config.RunConfig:
    """A case's settings."""
    told = world.caption(task.answers[0]) if _by_depth(self.settings) else task.instruction
    case = {"scene.path": str(task.folder), "instruction": told, "seed": seed}
    settings = self.settings.copy_and_resolve_references()
    settings.update_from_flattened_dict(EDITS.get(row, {}) | case)
    return config.resolve(settings, jax.default_backend())

  def finish(self, row: str, task: Task, seed: int) -> dict[str, Any]:
    """Edits, measures and keeps one case; gives its line."""
    run = self.run(row, task, seed)
    scene, known = known_of(task, run)
    machine.forget_peak_memory()
    began = time.monotonic()
    if row in CONTROLS:
      images = pictures.to_uint8(known.sources if row == "unedited" else known.answers[0])
    else:
      images = _edited(run, scene, self.models)
    seconds, memory = time.monotonic() - began, machine.peak_memory()
    file = (
      self.out / "pictures" / case_name(task.folder.name, task.instruction, seed) / f"{row}.png"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(images, axis=1)).save(file)
    images = pictures.from_8_bits(images)
    if images.shape[1] != run.teacher.size:
      images = np.asarray(pictures.teacher_source(images, run.teacher.size))
    return {
      "row": row,
      "sets": sets(row),
      "scene": task.folder.name,
      "instruction": task.instruction,
      "seed": seed,
      "ambiguous": task.target is not None,
      **measured(task, known, scene, self.judge, images),
      "seconds": round(seconds, 2),
      "memory": round(memory, 3),
    }


def _by_depth(settings: ConfigDict) -> bool:
  """Whether the teacher sees the views' depth, not the views."""
  return settings.teacher.kind == "controlnet"


def known_of(task: Task, run: config.RunConfig) -> tuple[Scene, Truth]:
  """A task's scene and truth at the settings' sizes, kept for the rows and seeds that follow."""
  return _known(task, run.scene.frames, run.student.size, run.teacher.size)


@functools.lru_cache(maxsize=4)
def _known(task: Task, frames: tuple[int | str, ...], student: int, teacher: int):
  scene = load_scene(task.folder, frames, size=student)
  return scene, truth(task, scene, teacher)


def _edited(run: config.RunConfig, scene: Scene, models: edit.Models) -> np.ndarray:
  """The views that one edit ends with. What is compiled for one serves all others of its row."""
  models = dataclasses.replace(models, ids=edit.instruction_ids(run))
  for event in edit.edit(run, scene, models, None):
    if isinstance(event, edit.Finished):
      return event.images


def case_name(scene: str, instruction: str, seed: int) -> str:
  """Of its folder of pictures."""
  return f"{scene}-{instruction.replace(' ', '-')}-{seed}"


# --- the table -------------------------------------------------------------------------------


def summary(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """An entry for each row and measure: mean and interval, cases, difference from the full method.

  The difference is over the cases that both have finished.
  """
  rows = [row for row in ROWS if any(line["row"] == row for line in lines)]
  entries = []
  for row in rows:
    for measure in MEASURES:
      own, full = values_of(lines, row, measure), values_of(lines, FULL, measure)
      if not own:
        continue
      entry = {"row": row, "measure": measure, "cases": len(own)}
      entry |= interval("", own)
      shared = {case: own[case] - full[case] for case in own.keys() & full.keys()}
      if shared and row != FULL:
        entry |= interval("difference_", shared)
      entries.append(entry)
  return entries


def values_of(
  lines: Sequence[Mapping[str, Any]], row: str, measure: str
) -> dict[tuple[str, str, int], float]:
  """{scene, instruction and seed: what was measured}, of a row."""
  return {
    (line["scene"], line["instruction"], line["seed"]): line[measure]
    for line in lines
    if line["row"] == row and line[measure] is not None
  }


def medians(lines: Sequence[Mapping[str, Any]], cost: str) -> dict[str, float]:
  """{row: what its edits took}."""
  taken = {row: [line[cost] for line in lines if line["row"] == row] for row in ROWS}
  return {row: float(np.median(values)) for row, values in taken.items() if values}


def interval(prefix: str, values: Mapping[tuple[str, str, int], float]) -> dict[str, float]:
  """Mean over scenes, each a mean over its cases, and the percentiles of resampled scenes."""
  names = sorted({scene for scene, *_ in values})
  means = [float(np.mean([v for c, v in values.items() if c[0] == name])) for name in names]
  found = tables.summary(means)
  told = {f"{prefix}{name}": getattr(found, name) for name in ("mean", "low", "high")}
  return {name: round(value, 5) for name, value in told.items() if value is not None}


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
  """Two tables: means with an edit's seconds and GB, and differences from the full method."""
  found = {(entry["row"], entry["measure"]): entry for entry in summary(lines)}
  rows = [row for row in ROWS if any(line["row"] == row for line in lines)]
  parts = []
  for title, prefix in (("Means", ""), ("Differences from the full method", "difference_")):
    head = ["", *MEASURES, *([] if prefix else ["cases", "median s", "GB"])]
    body = []
    for row in rows:
      cells = [cell(found.get((row, measure), {}), prefix) for measure in MEASURES]
      if not any(cells):
        continue
      if not prefix:
        cells += [str(sum(line["row"] == row for line in lines))]
        cells += [f"{medians(lines, cost)[row]:.1f}" for cost in COSTS]
      body.append([row, *cells])
    if not body:
      continue
    lined = [head, ["---"] * len(head), *body]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lined)
    parts.append(f"### {title}\n\n{table}\n")
  return "\n".join(parts)


def cell(entry: Mapping[str, Any], prefix: str) -> str:
  """A mean, or with "difference_" a difference, and its interval."""
  if f"{prefix}mean" not in entry:
    return ""
  form = f"{{:{'+' if prefix else ''}.{2 if entry['measure'] == 'psnr' else 3}f}}"
  told = form.format(entry[f"{prefix}mean"])
  if f"{prefix}low" not in entry:  # of too few scenes
    return told
  return f"{told} [{form.format(entry[f'{prefix}low'])}, {form.format(entry[f'{prefix}high'])}]"


def table_3(lines: Sequence[Mapping[str, Any]]) -> str:
  """These rows' CLIP trio beside the paper's, which is of six real edits and of ViT-L/14."""
  found = {(entry["row"], entry["measure"]): entry for entry in summary(lines)}
  table = ["| | Cons | Sim | Dir | paper's Cons | Sim | Dir |", f"|---|{'---:|' * 6}"]
  for row, paper in TABLE_3.items():
    entries = [found.get((row, measure), {}) for measure in ("cons", "sim", "dir")]
    ours = [f"{entry['mean']:.3f}" if "mean" in entry else "" for entry in entries]
    table.append(f"| {' | '.join([row, *ours, *(f'{value:.3f}' for value in paper)])} |")
  return "\n".join(table) + "\n"


def write_tables(out: pathlib.Path, lines: Sequence[Mapping[str, Any]], title: str) -> None:
  """ablations.md, .csv and .json."""
  groups = {
    "all": lines,
    "definite": [line for line in lines if not line["ambiguous"]],
    "ambiguous": [line for line in lines if line["ambiguous"]],
  }
  entries = [{"of": name} | entry for name, part in groups.items() for entry in summary(part)]
  parts = [f"## {name.capitalize()} instructions\n\n{markdown(x)}" for name, x in groups.items()]
  parts.append(f"## The paper's Table 3\n\n{table_3(lines)}")
  (out / "ablations.md").write_text("\n".join([f"# Ablations\n\n{title}\n", *parts]))
  costs = {f"median_{cost}": medians(lines, cost) for cost in COSTS}
  content = {"about": title, **costs, "entries": entries}
  (out / "ablations.json").write_text(json.dumps(content, indent=1))
  fields = list(dict.fromkeys(name for entry in entries for name in entry))
  with (out / "ablations.csv").open("w", newline="") as file:
    table = csv.DictWriter(file, fields)
    table.writeheader()
    table.writerows(entries)


def write_picture(out: pathlib.Path, case: str, size: int) -> None:
  """ablations.png: a line of views for each row of one case."""
  files = [out / "pictures" / case / f"{row}.png" for row in ROWS]
  strips = [Image.open(file) for file in files if file.exists()]
  count = strips[0].width // strips[0].height
  images = [np.asarray(strip.resize((count * size, size))) for strip in strips]
  lines = np.stack([np.stack(np.split(image, count, axis=1)) for image in images])
  labels = [[file.stem, *[""] * (count - 1)] for file in files if file.exists()]
  Image.fromarray(sheets.contact_sheet(lines, labels)).save(out / "ablations.png")


# --- the command -----------------------------------------------------------------------------


def drawn_scenes(out: pathlib.Path, count: int, first_seed: int = FIRST_SEED) -> list[pathlib.Path]:
  """The scenes of the report, or of other seeds, written where they are not whole yet."""
  folders = [out / "scenes" / f"scene_{i:02}" for i in range(count)]
  for i, folder in enumerate(folders):
    if not (folder / "edits.json").exists():  # it is written last
      shutil.rmtree(folder, ignore_errors=True)
      scenes.write(folder, scenes.draw(first_seed + i))
  return folders


def claim(out: pathlib.Path, settings: ConfigDict, clip: pathlib.Path, scenes: Any) -> None:
  """Notes the settings that the folder's cases share. Raises ConfigError if they were others."""
  file = out / "settings.json"
  if file.exists():
    check_claim(out, settings, clip, scenes)
    return
  out.mkdir(parents=True, exist_ok=True)
  file.write_text(json.dumps(_shared(settings, clip, scenes), indent=1))


def _shared(settings: ConfigDict, clip: pathlib.Path, scenes: Any) -> dict[str, Any]:
  of_cases = ("instruction", "seed", "run_dir", "scene.path")
  now = {name: x for name, x in config.flat(settings).items() if name not in of_cases}
  for folder in (*(now[name] for name in weight_settings(now)), str(clip)):
    description = pathlib.Path(folder) / weights.INFO
    if description.exists():  # what is missing is reported by the one who loads it
      now[f"sha256 of {description}"] = hashlib.sha256(description.read_bytes()).hexdigest()
  now["--scenes"] = str(scenes.resolve()) if scenes else "drawn"
  now["what is measured"] = [*MEASURES, *COSTS]
  return json.loads(json.dumps(now))


def check_claim(out: pathlib.Path, settings: ConfigDict, clip: pathlib.Path, scenes: Any) -> None:
  """Raises ConfigError if the folder's cases were made with other settings."""
  file = out / "settings.json"
  if not file.exists():
    raise ConfigError(f"{file}: there is no such file; python -m benchmarks.ablations writes it")
  now, before = _shared(settings, clip, scenes), json.loads(file.read_text())
  before.setdefault("--scenes", "drawn")  # of a folder from before it was noted
  for name in sorted(before.keys() | now.keys()):
    if before.get(name) != now.get(name):
      raise ConfigError(
        f"{out} holds cases for which {name} was {before.get(name)!r}, and it is "
        f"{now.get(name)!r} now; go on as they began, or name another folder"
      )


def weight_settings(settings: Mapping[str, Any]) -> list[str]:
  """The settings that name a folder of weights."""
  named = re.compile(r".*\.(weights|vae|image_encoder|controlnet)")
  return [name for name in settings if named.fullmatch(name) and settings[name]]


def finished(file: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of cases.jsonl, but for one that was cut off."""
  whole = []
  for line in file.read_text().splitlines() if file.exists() else []:
    try:
      whole.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return whole


def _refuse_other_rows(file: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> None:
  """Raises ConfigError where a line is of a row that set something else then."""
  for line in lines:
    now = sets(line["row"])
    if (was := line.get("sets", now)) != now:
      raise ConfigError(
        f"{file}: the row {line['row']!r} set {was!r} and sets {now!r} now; name another folder"
      )


Case = tuple[str, Task, int]
"""A row, a task and a seed."""


def run_all(
  settings: ConfigDict,
  folders: Sequence[pathlib.Path],
  args: argparse.Namespace,
  finish: Callable[[Sequence[Case]], Iterator[dict[str, Any]]],
) -> None:
  """Every case that has no line yet, scene by scene, then the tables and the picture."""
  asked = [task for i, folder in enumerate(folders) for task in _asked(folder, i, args.quick)]
  if _by_depth(settings):
    asked = [task for task in asked if keeps_shapes(task)]
    if not asked:
      raise ConfigError("none of these edits leaves every shape; leave out --quick, or --scenes")
  seeds = range(1 if args.quick else args.seeds)
  cases = [(row, task, seed) for task in asked for seed in seeds for row in args.rows]
  file = args.out / "cases.jsonl"
  lines = finished(file)
  _refuse_other_rows(file, lines)
  file.write_text("".join(json.dumps(line) + "\n" for line in lines))  # without what was cut off
  done = {(line["row"], line["scene"], line["instruction"], line["seed"]) for line in lines}
  key = lambda case: (case[0], case[1].folder.name, case[1].instruction, case[2])
  left = [case for case in cases if key(case) not in done]
  print(f"{len(cases)} edits, {len(cases) - len(left)} of them finished", flush=True)
  began = time.monotonic()
  for i, line in enumerate(finish(left), 1):
    with file.open("a") as cases_file:
      cases_file.write(json.dumps(line) + "\n")
    lines.append(line)
    rest = terminal.duration((time.monotonic() - began) / i * (len(left) - i))
    print(f"{i} of {len(left)}: {line['scene']}, {line['instruction']}, {line['row']}: ", end="")
    print(f"{line['seconds']:.1f} s, {rest} left", flush=True)
  write_tables(args.out, lines, f"{_told(lines)}, {args.jobs} at a time. {machine.describe()}")
  case = case_name(asked[0].folder.name, asked[0].instruction, seeds[0])
  write_picture(args.out, case, settings.student.size)
  print((args.out / "ablations.md").read_text())


def _told(lines: Sequence[Mapping[str, Any]]) -> str:
  """How many scenes, edits of them and seeds a table is of."""
  scenes = {line["scene"] for line in lines}
  edits = {(line["scene"], line["instruction"]) for line in lines}
  return f"{len(scenes)} scenes, {len(edits)} edits, {len({line['seed'] for line in lines})} seeds"


@functools.lru_cache(maxsize=1)
def _bench(out: pathlib.Path, clip: pathlib.Path, argv: tuple[str, ...]) -> Bench:
  """What a process needs for its cases, loaded once. argv: of `settings_of`."""
  settings = settings_of(argv)
  compilation.keep()
  models = edit.load_models(config.resolve(settings, jax.default_backend()))
  return Bench(out, settings, models, load_judge(clip))


def _one(
  out: pathlib.Path, clip: pathlib.Path, argv: tuple[str, ...], case: Case
) -> dict[str, Any]:
  return _bench(out, clip, argv).finish(*case)


def _take_cores(shares: Any) -> None:
  """Keeps this process to its share of the cores, before JAX counts them."""
  os.sched_setaffinity(0, shares.get())


def in_processes(
  jobs: int, one: Callable[[Case], dict[str, Any]], cases: Sequence[Case]
) -> Iterator[dict[str, Any]]:
  """The cases' lines, as they are finished."""
  context = multiprocessing.get_context("spawn")
  cores, shares = sorted(os.sched_getaffinity(0)), context.Queue()
  for place in range(jobs):
    shares.put(cores[place::jobs] or cores)
  with concurrent.futures.ProcessPoolExecutor(jobs, context, _take_cores, (shares,)) as pool:
    try:
      for done in concurrent.futures.as_completed([pool.submit(one, case) for case in cases]):
        yield done.result()
    finally:
      pool.shutdown(cancel_futures=True)


def _asked(folder: pathlib.Path, number: int, quick: bool) -> list[Task]:
  return tasks(folder, number)[: 2 if quick else 4]


def keeps_shapes(task: Task) -> bool:
  """Whether it has one right answer, with the photographs' depth."""
  shapes = lambda drawn: [obj.shape for obj in drawn.objs]
  return task.target is None and shapes(task.drawn) == shapes(task.answers[0])


def settings_of(argv: Sequence[str]) -> ConfigDict:
  """The base settings: a config file's with changes, in calls of a whole timestep."""
  if not any(argument.startswith("--config=") for argument in argv):
    argv = [f"--config={REPOSITORY / 'configs' / 'default.py'}", *argv]
  settings = config.parse(["ablations", *argv])
  settings.log_every = max(settings.distill.iterations_first, settings.distill.iterations, 1)
  settings.image_every = 0
  return settings


def positive(text: str) -> int:
  """A count of at least one, for argparse."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
  return int(text)


def _rows(text: str) -> list[str]:
  rows = [row.strip() for row in text.split(",")]
  for row in rows:
    if row not in ROWS:
      raise argparse.ArgumentTypeError(f"{row!r} is not one of {', '.join(ROWS)}")
  return rows


def main(argv: Sequence[str]) -> int:
  """Runs what is left and writes the tables; gives the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.ablations",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--quick", action="store_true", help="two scenes, instructions, one seed")
  parser.add_argument("--scenes", type=pathlib.Path, help="folder of scenes of the micro world")
  parser.add_argument("--seeds", type=positive, default=2, help="how often each edit is drawn")
  parser.add_argument("--jobs", type=positive, default=1, help="processes that share the cases")
  rows = f"of {', '.join(ROWS)}; by default {', '.join(DEFAULT_ROWS)}"
  parser.add_argument("--rows", type=_rows, default=list(DEFAULT_ROWS), help=rows)
  parser.add_argument("--clip", type=pathlib.Path, default=BUNDLED / "metric_clip")
  args, rest = parser.parse_known_args(argv[1:])
  try:
    settings = settings_of(rest)
    if args.jobs > 1 and jax.default_backend() != "cpu":
      raise ConfigError(f"--jobs={args.jobs}: only CPUs are shared by processes; leave it out here")
    claim(args.out, settings, args.clip, args.scenes)
    edit.check_models(config.resolve(settings, jax.default_backend()))
    one = functools.partial(_one, args.out, args.clip, tuple(rest))
    many = functools.partial(in_processes, args.jobs, one)
    run_all(settings, _folders(args), args, many if args.jobs > 1 else functools.partial(map, one))
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


def _folders(args: argparse.Namespace) -> list[pathlib.Path]:
  if args.scenes is None:
    return drawn_scenes(args.out, 2 if args.quick else DRAWN)
  found = sorted(file.parent for file in args.scenes.glob("*/edits.json"))
  if not found:
    raise ConfigError(
      f"--scenes={args.scenes}: it holds no scene (no */edits.json); "
      "python -m imx2mx_jax.micro.scenes writes some"
    )
  return found[:2] if args.quick else found


if __name__ == "__main__":
  sys.exit(main(sys.argv))
