"use strict";

// Figures lie in the page as JSON, and are drawn when they come near: a thousand trials take a moment.
const draw = (place) => {
  const data = place.querySelector("script[type='application/json']");
  if (!data) return;
  const figure = JSON.parse(data.textContent);
  data.remove();
  Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displaylogo: false });
};
const figures = [...document.querySelectorAll(".figure")];
const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "600px" },
);
figures.forEach((place) => near.observe(place));
const resize = () => figures.filter((place) => place.data).forEach((place) => Plotly.Plots.resize(place));
window.addEventListener("beforeprint", () => { figures.forEach(draw); resize(); });
window.addEventListener("afterprint", resize);

// A click sorts by a column, a second one the other way; what was not measured stays last.
const table = document.getElementById("trials");
const valueOf = (row, index) => row.cells[index].dataset.v ?? row.cells[index].textContent;
const compare = (one, other) => {
  const [a, b] = [Number(one), Number(other)];
  return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other) : a - b;
};
const sortBy = (heading) => {
  const index = heading.cellIndex;
  const ascending = heading.ariaSort !== "ascending";
  const rows = [...table.tBodies[0].rows];
  const measured = rows.filter((row) => valueOf(row, index) !== "");
  const empty = rows.filter((row) => valueOf(row, index) === "");
  measured.sort((a, b) => (ascending ? 1 : -1) * compare(valueOf(a, index), valueOf(b, index)));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.ariaSort = ascending ? "ascending" : "descending";
  table.tBodies[0].append(...measured, ...empty);
};

// Columns are shown and hidden, and set to the left, by one rule each: cells carry no classes.
const rules = document.head.appendChild(document.createElement("style")).sheet;
const columns = table ? [...table.tHead.rows[0].cells] : [];
const cells = (heading) => `#trials :is(td, th):nth-child(${heading.cellIndex + 1})`;
const showExtras = (shown) => {
  while (rules.cssRules.length) rules.deleteRule(0);
  for (const heading of columns) {
    if (heading.classList.contains("text")) rules.insertRule(`${cells(heading)} { text-align: left; }`);
    if (heading.classList.contains("extra") && !shown) rules.insertRule(`${cells(heading)} { display: none; }`);
  }
};
for (const heading of columns) heading.addEventListener("click", () => sortBy(heading));
showExtras(false);
document.getElementById("all-metrics")?.addEventListener("change", (event) => showExtras(event.target.checked));
for (const cell of table?.querySelectorAll("td:last-child") ?? []) cell.title = cell.textContent;
