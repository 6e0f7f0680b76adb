const together = document.getElementById("together");
const stages = [...document.querySelectorAll(".stage")];

function moveTo(stage, at) {
  stage.querySelector("input").value = at;
  stage.style.setProperty("--at", at + "%");
}

for (const stage of stages) {
  const range = stage.querySelector("input");
  range.addEventListener("input", () => {
    for (const other of together.checked ? stages : [stage]) moveTo(other, range.value);
  });
  moveTo(stage, range.value); // a reloaded page keeps what its inputs had
}

const dialog = document.querySelector("dialog");
let beside = [];
let columns = 1;
let at = 0;

function show(index) {
  if (!(index in beside)) return;
  at = index;
  const small = beside[at].querySelector("img");
  const full = document.getElementById(beside[at].dataset.full) ?? small;
  const picture = dialog.querySelector("img");
  picture.src = full.src;
  picture.alt = small.alt;
  dialog.querySelector(".caption").textContent = beside[at].dataset.caption;
}

for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const group = button.closest("[data-columns]");
    beside = [...group.querySelectorAll(".enlarge")];
    columns = Number(group.dataset.columns);
    show(beside.indexOf(button));
    dialog.showModal();
  });
}

dialog.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  if (!(event.key in steps)) return;
  event.preventDefault();
  show(at + steps[event.key]);
});

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
