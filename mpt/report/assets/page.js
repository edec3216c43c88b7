"use strict";
// Charts: drawn when they come near the screen, so that a page of a hundred opens at once; all of them for paper.
const charts = [...document.querySelectorAll(".chart")];
function draw(place) {
  if (place.dataset.drawn) return Promise.resolve();
  place.dataset.drawn = "yes";
  const spec = JSON.parse(document.getElementById(place.dataset.chart).textContent);
  // ast: Vega would otherwise compile expressions from text, which the page's policy forbids.
  const options = { ast: true, renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };
  return vegaEmbed(place, spec, options).catch((error) => {
    place.classList.add("failed");
    place.textContent = "This chart could not be drawn: " + error.message;
    console.error(error);
  });
}
const near = new IntersectionObserver((seen) => seen.filter((each) => each.isIntersecting).forEach((each) => draw(each.target)), { rootMargin: "600px" });
charts.forEach((place) => near.observe(place));
window.addEventListener("beforeprint", () => charts.forEach(draw));

// Tables: a click on a heading sorts by its column, a second one the other way round.
function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent;
}
function compare(one, other) {
  const numbers = [Number(one), Number(other)];
  if (one !== "" && other !== "" && numbers.every(Number.isFinite)) return numbers[0] - numbers[1];
  return one.localeCompare(other, undefined, { numeric: true });
}
document.querySelectorAll("table.sortable").forEach((table) => {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((one, other) => (down ? -1 : 1) * compare(valueOf(one, column), valueOf(other, column)));
    body.append(...rows);
  }));
});

// The base of the paired differences.
const base = document.getElementById("base");
base?.addEventListener("change", () => document.querySelectorAll(".difference").forEach((each) => { each.hidden = each.dataset.base !== base.value; }));

// The search in the answers.
const search = document.getElementById("search");
if (search) {
  const rows = [...document.getElementById("answers-table").tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const task = document.getElementById("task"), wrong = document.getElementById("wrong");
  const filter = () => {
    const words = search.value.toLowerCase();
    let found = 0;
    rows.forEach((row) => {
      const score = row.dataset.score;
      const shown = texts.get(row).includes(words) && (!task.value || row.dataset.task === task.value) && (!wrong.checked || (score !== "" && Number(score) < 1));
      row.hidden = !shown;
      found += shown;
    });
    document.getElementById("found").textContent = `${found} of ${rows.length}`;
  };
  search.addEventListener("input", filter);
  task.addEventListener("change", filter);
  wrong.addEventListener("change", filter);
  filter();
}

// Light and dark: as the system has it, until the reader chooses.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
