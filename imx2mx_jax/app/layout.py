"""The page itself, in Gradio: what stands where, and which function answers which click."""

import functools
import pathlib
import shlex
import time
import types
from collections.abc import Iterator
from typing import Any

import gradio as gr

from imx2mx_jax import config
from imx2mx_jax.app import shelf as shelves
from imx2mx_jax.app import tasks, uploads, words
from imx2mx_jax.app.server import Setting, own_scene
from imx2mx_jax.app.shelf import Shelf
from imx2mx_jax.app.worker import Job, Status, Worker
from imx2mx_jax.errors import SceneError, UserError
from imx2mx_jax.render.settings import NAMES
from imx2mx_jax.scene import FEWEST_VIEWS, Transforms, read_transforms
from imx2mx_jax.shapes import np

_CSS = pathlib.Path(__file__).parent / "page.css"
_LOOK = 0.3  # seconds between two looks at a job
_SHELF = 40  # thumbnails at most
_CHOSEN = 4  # views that are chosen at first
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
_VOCABULARY = (
  "The bundled micro models know a small world of cubes, cylinders and spheres: *make it sunset*, "
  "*make it day*, *make the cylinder green*, *turn the floor into grass*."
)


_AT_ONCE = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""Of every event: the row of jobs is the worker's, not Gradio's."""

Parts = types.SimpleNamespace
"""Components of a part of the page, by their names."""


class Page:
  """What the page can do. Each method answers an event and gives what its components show."""

  def __init__(self, setting: Setting, worker: Worker):
    self._setting = setting
    self._worker = worker
    self._downloads = setting.out / "downloads"

  # --- scenes ---

  def scenes(self) -> dict[str, pathlib.Path]:
    """The scenes that can be chosen: the bundled ones, the page's own, and the settings'."""
    found = {}
    for folder in (tasks.MICRO / "scenes", self._setting.out / "scenes"):
      entries = sorted(folder.iterdir()) if folder.is_dir() else []
      found |= {path.name: path for path in entries if (path / uploads.CAMERAS).exists()}
    own = own_scene(self._setting.tree)
    return found | ({own.resolve().name: own} if own else {})

  def listed(self) -> Any:
    """The scenes, those included that came since the page was laid out."""
    return gr.update(choices=list(self.scenes()))

  def open(self, name: str | None) -> tuple[Any, ...]:
    """A scene's thumbnails, with some chosen."""
    try:
      path = self._path(name)
      transforms = read_transforms(path)
      wished = self._wished_frames(path, transforms)
      frames = tasks.frames_of(transforms, _SHELF, wished)
      images = tasks.thumbnails(transforms, frames, shelves.SIDE)
    except UserError as error:
      failed = words.status(str(error), failed=True)
      return None, [], "", gr.update(visible=False, value=False), failed
    left = len(transforms.frames) - len(frames)
    shelf = Shelf(path, tuple(frames), tuple(images), wished or _spread(frames), left)
    mask = gr.update(visible=(path / uploads.MASKS).is_dir(), value=False)
    return shelf, shelf.marked(), shelf.told(), mask, gr.skip()

  def toggle(self, shelf: Shelf, event: gr.SelectData) -> tuple[Any, ...]:
    """A click on a thumbnail."""
    shelf = shelf.toggled(event.index)
    return shelf, gr.update(value=shelf.marked(), selected_index=None), shelf.told()

  def doubts(self, shelf: Shelf | None) -> Any:
    """What seems wrong with the chosen cameras."""
    found = []
    if shelf and len(shelf.chosen) >= FEWEST_VIEWS:
      try:
        found = tasks.doubts(shelf.path, shelf.chosen)
      except UserError as error:
        found = [str(error)]
    said = "".join(words.status(f"The cameras may be wrong: {doubt}") for doubt in found[:2])
    return gr.update(value=said, visible=bool(said))

  def receive(self, files: list[str] | None) -> Iterator[tuple[Any, ...]]:
    """Files that were dropped: a scene, perhaps after its cameras have been found."""
    if not files:
      yield (gr.skip(),) * 5
      return
    try:
      received = uploads.receive([pathlib.Path(str(file)) for file in files], self._setting.out)
    except (SceneError, OSError) as error:
      yield gr.skip(), words.status(str(error), failed=True), None, gr.skip(), gr.skip()
      return
    said, scene = "the scene is here", received.folder
    if not received.cameras:
      scene = self._setting.out / "scenes" / received.folder.name
      work = functools.partial(tasks.cameras, received.folder, scene)
      job = self._worker.submit(str(scene), work)
      for told, _ in self._followed(job):
        yield gr.skip(), told, gr.skip(), gr.update(visible=not job.over), job.key
      if job.status is Status.STOPPED:
        told = words.status("the search was stopped; drop the photographs again to begin anew")
        yield gr.skip(), told, None, gr.update(visible=False), gr.skip()
      if job.status is not Status.DONE:
        return
      said = job.shown.line or said
    if received.left_out:
      said += f"; {received.left_out} files of other kinds were left out"
    choices = gr.update(choices=list(self.scenes()), value=scene.name)
    yield choices, words.status(said), None, gr.update(visible=False), gr.skip()

  # --- edits ---

  def preview(self, *chosen: Any) -> Iterator[tuple[Any, ...]]:
    """The reference view at nine pairs of scales."""
    try:
      run = self._wished(*chosen)
    except UserError as error:
      yield words.status(str(error), failed=True), gr.skip(), gr.skip()
      return
    work = functools.partial(tasks.preview, run, self._setting.load)
    job = self._worker.submit(f"{run.run_dir} preview", work)
    for told, _ in self._followed(job):
      yield told, gr.skip(), job.key
    if job.status is Status.DONE:
      said = words.status("these settings are in the middle, in the red frame")
      yield said, gr.update(value=str(job.result), visible=True), job.key

  def edit(self, *chosen: Any) -> Iterator[tuple[Any, ...]]:
    """The whole edit, from its beginning or from where it was stopped."""
    hidden, nothing = gr.update(visible=False), (gr.skip(),) * 6
    try:
      run = self._wished(*chosen)
    except UserError as error:
      yield words.status(str(error), failed=True), *(gr.skip(),) * 3, *nothing
      return
    work = functools.partial(tasks.edited, run, self._setting.load, self._downloads)
    job = self._worker.submit(run.run_dir, work)
    for told, pictures in self._followed(job):
      yield told + self._going_on(job, run), _shown(pictures), job.key, hidden, *nothing
    if job.status is Status.DONE:
      result = job.result
      names = list(result.views)
      yield (
        words.status(f"done: {result.folder}"),
        hidden,
        job.key,
        hidden,
        (run, result),
        gr.update(visible=True),
        gr.update(choices=names, value=names[0]),
        result.views[names[0]],
        str(result.packed),
        gr.update(value=str(result.report), visible=result.report.exists()),
      )

  def view(self, name: str, made: tuple[config.RunConfig, tasks.Result] | None) -> Any:
    """Before and after of another view."""
    return made[1].views[name] if made and name in made[1].views else gr.skip()

  def video(
    self, made: tuple[config.RunConfig, tasks.Result], path: str, frames: float | None
  ) -> Iterator[tuple[Any, ...]]:
    """The edited scene along a path."""
    run, result = made
    try:
      steps = self._setting.steps
      wanted = tasks.video_settings(run, path, int(frames or self._setting.frames), steps)
    except UserError as error:
      yield words.status(str(error), failed=True), *(gr.skip(),) * 4
      return
    work = functools.partial(tasks.video, wanted, result.folder, self._downloads)
    job = self._worker.submit(wanted.out, work)
    for told, pictures in self._followed(job):
      yield told, _shown(pictures), gr.skip(), gr.skip(), job.key
    if job.status is Status.DONE:
      film, packed = job.result
      shown = gr.update(value=str(film), visible=True)
      told = words.status(f"done: {film}")
      yield told, gr.update(visible=False), shown, str(packed), job.key

  def cancel(self, *keys: str) -> None:
    """Stops the jobs that this page follows."""
    for key in keys:
      if job := self._worker.find(key):
        self._worker.cancel(job)

  # --- what these stand on ---

  def _path(self, name: str | None) -> pathlib.Path:
    known = self.scenes()
    if name not in known:
      raise SceneError("choose a scene, or drop photographs")
    return known[name]

  def _wished_frames(self, path: pathlib.Path, transforms: Transforms) -> tuple[int, ...]:
    """The settings' own views of their own scene, the reference first; none of others."""
    scene = self._setting.tree.scene
    names = config.frame_names(scene.frames)
    if path != own_scene(self._setting.tree) or not names:
      return ()
    return tasks.numbers_of(transforms, names, config.frame_names(scene.reference))

  def _wished(
    self,
    shelf: Shelf | None,
    instruction: str,
    text: float | None,
    image: float | None,
    seed: float | None,
    masked: bool,
  ) -> config.RunConfig:
    """The run that the page's fields ask for. Raises: UserError."""
    if shelf is None:
      raise SceneError("choose a scene, or drop photographs")
    if len(shelf.chosen) < FEWEST_VIEWS:
      raise SceneError(f"{len(shelf.chosen)} views are chosen; an edit needs {FEWEST_VIEWS}")
    tree = self._setting.tree
    wish = tasks.Wish(
      str(shelf.path),
      shelf.chosen,
      " ".join((instruction or "").split()),
      tree.teacher.text_guidance if text is None else float(text),
      tree.teacher.image_guidance if image is None else float(image),
      tree.seed if seed is None else int(seed),
      str(shelf.path / uploads.MASKS) if masked else tree.mask,
    )
    return tasks.settings(tree, wish, self._setting.out / "runs", self._setting.platform)

  def _followed(self, job: Job) -> Iterator[tuple[str, tuple[np.ndarray, ...] | None]]:
    """What is told of a job, whenever it has changed, and its pictures where they have."""
    told, pictures = None, ()
    while True:
      over = job.over
      now, shown = words.of_job(job, self._worker.before(job)), job.shown.pictures
      if now != told or shown is not pictures:
        yield now, shown if shown is not pictures else None
      told, pictures = now, shown
      if over:
        return
      time.sleep(_LOOK)

  def _going_on(self, job: Job, run: config.RunConfig) -> str:
    """After a stop: how to go on in a terminal."""
    if not job.stop.obeyed:
      return ""
    return words.code(shlex.join(tasks.command(self._setting.argv, run)))


def _spread(frames: list[int]) -> tuple[int, ...]:
  """A few of the frames, evenly."""
  steps = np.linspace(0, len(frames) - 1, min(_CHOSEN, len(frames))).round()
  return tuple(sorted({frames[int(step)] for step in steps}))


def _shown(pictures: tuple[np.ndarray, ...] | None) -> Any:
  if pictures is None:
    return gr.skip()
  return gr.update(value=list(pictures), visible=bool(pictures))


def build(page: Page, setting: Setting) -> gr.Blocks:
  """Lays out the page and connects it."""
  with gr.Blocks(title="imx2mx_jax", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
    gr.Markdown(
      "# Edit a scene, alike in all views\n"
      "A few photographs, an instruction, and the same views edited so that they fit together in "
      "3D. One piece of work runs at a time; others wait in a row.",
      elem_id="title",
    )
    shelf, made = gr.State(None), gr.State(None)
    searched, previewed, edited, filmed = (gr.State("") for _ in range(4))  # the jobs' keys
    scene = _scene(list(page.scenes()), setting)
    views = _views()
    asked = _instruction(setting)
    done = _result(setting)
    _connect_scene(blocks, page, shelf, searched, scene, views)
    fields = [shelf, asked.instruction, asked.text, asked.image, asked.seed, views.masked]
    outputs = [asked.status, asked.sheet, previewed]
    asked.preview.click(page.preview, fields, outputs, **_AT_ONCE)
    outputs = [asked.status, asked.now, edited, asked.sheet, made]
    outputs += [done.all, done.view, done.slider, done.download, done.report]
    asked.edit.click(page.edit, fields, outputs, **_AT_ONCE)
    asked.cancel.click(page.cancel, [previewed, edited, filmed], **_AT_ONCE)
    done.view.input(page.view, [done.view, made], done.slider, **_AT_ONCE)
    outputs = [done.filmed, done.frame, done.video, done.download, filmed]
    done.film.click(page.video, [made, done.path, done.frames], outputs, **_AT_ONCE)
  return blocks


def _connect_scene(
  blocks: gr.Blocks, page: Page, shelf: gr.State, searched: gr.State, scene: Parts, views: Parts
) -> None:
  shown = [shelf, views.gallery, views.chosen, views.masked, scene.received]
  check = lambda event: event.then(page.doubts, shelf, views.doubts, **_AT_ONCE)
  blocks.load(page.listed, None, scene.scenes, **_AT_ONCE)
  check(blocks.load(page.open, scene.scenes, shown, **_AT_ONCE))
  check(scene.scenes.change(page.open, scene.scenes, shown, **_AT_ONCE))
  scene.scenes.input(lambda: "", None, scene.received, **_AT_ONCE)
  check(views.gallery.select(page.toggle, shelf, [shelf, views.gallery, views.chosen], **_AT_ONCE))
  outputs = [scene.scenes, scene.received, scene.files, scene.stop, searched]
  scene.files.upload(page.receive, scene.files, outputs, **_AT_ONCE)
  scene.stop.click(page.cancel, searched, **_AT_ONCE)


def _scene(names: list[str], setting: Setting) -> Parts:
  _heading(1, "Scene")
  path = own_scene(setting.tree)
  own = path.resolve().name if path else ""
  with gr.Row(equal_height=True):
    with gr.Column(min_width=260):
      scenes = gr.Dropdown(names, value=own if own in names else names[0], label="Scene")
      gr.Markdown(_limits(), elem_classes="hint")
    with gr.Column(min_width=260):
      files = gr.File(
        file_count="multiple",
        file_types=[*uploads.PICTURES, ".json", ".zip"],
        label="Photographs, or a zip of a scene folder",
        elem_id="files",
        height=170,
      )
  received = gr.HTML(elem_id="received")
  stop = gr.Button("Stop the search", variant="stop", elem_id="stop-search", visible=False)
  return Parts(scenes=scenes, files=files, received=received, stop=stop)


def _views() -> Parts:
  _heading(2, "Views")
  return Parts(
    gallery=_gallery("views", allow_preview=False),
    chosen=gr.Markdown(elem_classes="hint", elem_id="chosen"),
    doubts=gr.HTML(visible=False, elem_classes="doubt", elem_id="doubts"),
    masked=gr.Checkbox(label="Edit only what the scene's masks/ shows in white", visible=False),
  )


def _instruction(setting: Setting) -> Parts:
  _heading(3, "Instruction")
  tree, parts = setting.tree, Parts()
  parts.instruction = gr.Textbox(
    tree.instruction,
    show_label=False,
    placeholder="turn him into a knight",
    max_lines=1,
    max_length=200,
    elem_id="instruction",
  )
  if tasks.by_micro_models(tree.student.weights):
    gr.Markdown(_VOCABULARY, elem_classes="hint")
  with gr.Accordion("Settings", open=False), gr.Row():
    follow, keep = "Text guidance: more follows the words", "Image guidance: more keeps the photo"
    parts.text = gr.Number(tree.teacher.text_guidance, label=follow, minimum=0)
    parts.image = gr.Number(tree.teacher.image_guidance, label=keep, minimum=0)
    parts.seed = gr.Number(tree.seed, label="Seed", precision=0, minimum=0)
  with gr.Row():
    parts.preview = gr.Button("Preview", elem_id="preview", min_width=100)
    parts.edit = gr.Button("Edit", variant="primary", elem_id="edit", min_width=100)
    parts.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=100)
  parts.status = gr.HTML(elem_id="status")
  parts.sheet = gr.Image(
    visible=False, show_label=False, interactive=False, elem_id="sheet", buttons=["fullscreen"]
  )
  parts.now = _gallery("now", visible=False)
  return parts


def _result(setting: Setting) -> Parts:
  parts = Parts()
  with gr.Column(visible=False, elem_id="result") as parts.all:
    _heading(4, "Result")
    parts.view = gr.Radio([], show_label=False, container=False, elem_id="view")
    parts.slider = gr.ImageSlider(
      show_label=False, interactive=False, format="png", elem_id="slider", buttons=["fullscreen"]
    )
    with gr.Row():
      wide = {"min_width": 200}
      parts.download = gr.DownloadButton("Download the run folder", elem_id="download", **wide)
      parts.report = gr.DownloadButton("Report", elem_id="report", **wide)
    _heading(5, "Video")
    with gr.Row(equal_height=True):
      parts.path = gr.Dropdown(list(NAMES), value="arc", label="Path of the camera", min_width=140)
      parts.frames = gr.Number(setting.frames, label="Frames", precision=0, minimum=2, maximum=480)
      parts.film = gr.Button("Make the video", elem_id="film", min_width=140)
    parts.filmed = gr.HTML(elem_id="filmed")
    parts.frame = _gallery("frame", visible=False)
    parts.video = gr.Video(
      visible=False,
      show_label=False,
      interactive=False,
      autoplay=True,
      loop=True,
      elem_id="video",
      buttons=["download"],
    )
  return parts


def _gallery(name: str, **options: Any) -> gr.Gallery:
  """Pictures side by side, not to be changed. name: by which styles find it."""
  return gr.Gallery(
    show_label=False, interactive=False, buttons=[], elem_id=name, format="png", **options
  )


def launch(setting: Setting, worker: Worker, address: str, port: int) -> None:
  """Serves the page from a thread."""
  blocks = build(Page(setting, worker), setting)
  blocks.queue(api_open=False, max_size=64).launch(
    server_name=address,
    server_port=port,
    share=False,
    quiet=True,
    prevent_thread_lock=True,
    max_file_size=uploads.MOST_BYTES,
    allowed_paths=[str(setting.out)],
    footer_links=[],
    run_history=False,
    ssr_mode=False,
    pwa=False,
    mcp_server=False,
    enable_monitoring=False,
    theme=gr.themes.Base(primary_hue="sky", neutral_hue="stone", font=_FONT, font_mono=_MONO),
    css_paths=[_CSS],
  )


def _heading(number: int, text: str) -> None:
  gr.HTML(f"<h2><span>{number}</span>{text}</h2>", elem_classes="step")


def _limits() -> str:
  return (
    f"Up to {uploads.MOST_FILES} files, {uploads.MOST_BYTES // 1_000_000} MB in all, "
    f"{uploads.MOST_PIXELS // 1_000_000} megapixels a picture. Photographs alone get their cameras "
    "from COLMAP (at least three, ten or more are better); with a transforms.json beside them they "
    "have theirs; a zip of a scene folder keeps depth and masks/ too."
  )
