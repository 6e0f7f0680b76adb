"""The paper's table, from edits whose scores are known."""

import json
import runpy

from benchmarks import paper_edits
from imx2mx_jax import config


def test_the_papers_edits_are_a_list_that_sets_all_they_differ_in():
  jobs = list(paper_edits.papers_jobs())
  assert len(jobs) == 20
  knight = jobs[-1]
  assert knight["scene"] == "data/person-small"
  assert knight["instruction"] == "Turn him into a knight"
  assert knight["overrides"] == {
    "source_caption": "A man standing next to a wall wearing a blue T-shirt and brown pants",
    "edited_caption": "A knight standing next to a wall",
    "teacher.text_guidance": 6.0,
  }


def test_each_line_makes_its_edit_whatever_the_base_is():
  """The base is the first edit; the settings of each are those of its own config."""
  base = [f"--config={paper_edits.PAPER}:face_venetian_mask"]
  names = runpy.run_path(str(paper_edits.PAPER))["EDITS"]
  for name, job in zip(names, paper_edits.papers_jobs(), strict=True):
    fields = {"scene.path": job["scene"], "instruction": job["instruction"]} | job["overrides"]
    made = config.parse(["x", *base, *(f"--config.{k}={v}" for k, v in fields.items())])
    wanted = config.parse(["x", f"--config={paper_edits.PAPER}:{name}"])
    made.run_dir = wanted.run_dir
    assert made == wanted


def test_the_table_has_the_papers_lines_and_ours(tmp_path, capsys):
  for name, cons in {"a": 0.2, "b": 0.4}.items():
    (tmp_path / name).mkdir()
    scores = {"model": "openai/clip", "cons": cons, "sim": 0.25, "dir": 0.1}
    (tmp_path / name / "metrics.json").write_text(json.dumps({"clip": scores}))
  edits = [{"folder": name} for name in ("a", "b", "failed")]
  (tmp_path / "summary.json").write_text(json.dumps({"edits": edits}))
  paper_edits.write(tmp_path)
  lines = (tmp_path / "table1.md").read_text().splitlines()
  assert "| InstructMix2Mix | 0.342 | 0.258 | 0.173 |" in lines
  ours = "| edits measured: 2 | 0.300 | 0.250 |"
  assert any(line.startswith(ours) for line in lines)
  assert lines[-1].startswith("In brackets, from 3 edits on: 95 % intervals. CLIP: openai/clip;")
  assert "| a |" in (tmp_path / "edits.md").read_text()
