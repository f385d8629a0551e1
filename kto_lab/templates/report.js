"use strict";
const number = text => text === "" ? NaN : Number(text);
function value(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
}
function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a, column), value(b, column)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNaN(number(x)) || isNaN(number(y)) ? x.localeCompare(y) : number(x) - number(y);
    return down ? -order : order;
  });
  body.append(...rows);
}
function filter() {
  const word = document.getElementById("words").value.toLowerCase();
  const wanted = document.getElementById("method").value;
  for (const row of document.querySelectorAll("table[data-keys] > tbody > tr")) {
    const other = wanted !== "" && row.hasAttribute("data-method") && row.dataset.method !== wanted;
    const words = row.closest("table").id === "runs" && !row.textContent.toLowerCase().includes(word);
    row.hidden = other || words;
  }
}
for (const row of document.querySelectorAll("table[data-keys] > tbody > tr")) {
  const heads = [...row.closest("table").tHead.rows[0].cells].map(cell => cell.textContent);
  const place = heads.indexOf(document.getElementById("method").dataset.name);
  if (place >= 0) row.dataset.method = row.cells[place].textContent;
}
for (const head of document.querySelectorAll("table[data-keys] thead th")) {
  head.tabIndex = 0;
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    sort(head);
  });
}
for (const id of ["words", "method"]) document.getElementById(id).addEventListener("input", filter);
