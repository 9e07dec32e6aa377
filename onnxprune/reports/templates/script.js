"use strict";
(() => {
  const value = (row, place) => {
    const cell = row.cells[place];
    return cell.dataset.v ?? cell.textContent.trim();
  };
  const order = (kind, up) => (a, b) => {
    if (kind === "number") {
      const [x, y] = [a, b].map((t) => (t === "" ? NaN : Number(t)));
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return up ? x - y : y - x;
    }
    const c = a.localeCompare(b, undefined, { numeric: true });
    return up ? c : -c;
  };
  const sort = (table, head, place) => {
    const up = head.getAttribute("aria-sort") !== (head.dataset.sort === "number" ? "descending" : "ascending");
    const rising = head.dataset.sort === "number" ? !up : up;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = table.tBodies[0];
    const compare = order(head.dataset.sort, rising);
    const rows = [...body.rows].map((row) => [value(row, place), row]);
    rows.sort((a, b) => compare(a[0], b[0]));
    body.append(...rows.map((pair) => pair[1]));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, place));
    });
  }
  for (const table of document.querySelectorAll("table[data-filter]")) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 8) continue;
    const line = document.createElement("label");
    line.className = "filter";
    const field = document.createElement("input");
    field.type = "search";
    field.placeholder = `Filter ${table.dataset.filter}`;
    field.setAttribute("aria-label", field.placeholder);
    const told = document.createElement("span");
    told.className = "soft";
    told.setAttribute("role", "status");
    line.append(field, told);
    table.parentElement.before(line);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      told.textContent = words.length ? `${shown} of ${rows.length}` : "";
    });
  }
})();
