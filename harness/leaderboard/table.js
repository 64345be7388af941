// A table of lines that is sorted by its column heads.
//
// A line has `tier`: 0 takes part in the ranking, higher ones stand after it whatever the order is.
// A column has `key`, `title`, `value(line)` to sort by, `cell(line)` to show, and may be `text`.

const AT_FIRST = 100;
const COLLATOR = new Intl.Collator("en", { numeric: true });

function compare(left, right) {
  return typeof left === "string" ? COLLATOR.compare(left, right) : left - right;
}

function sorted(lines, column, descending) {
  const known = (value) => value !== null && value !== undefined;
  return [...lines].sort((a, b) => {
    if (a.tier !== b.tier) return a.tier - b.tier;
    const [left, right] = [column.value(a), column.value(b)];
    if (known(left) !== known(right)) return known(left) ? -1 : 1;
    const order = known(left) ? compare(left, right) * (descending ? -1 : 1) : 0;
    return order || COLLATOR.compare(a.name, b.name) || COLLATOR.compare(a.key, b.key);
  });
}

function makeTable({ label, columns, sort, open }) {
  let lines = [];
  let all = false;
  const by = { ...sort };
  const heads = columns.map((column) => head(column));
  const body = make("tbody");
  const caption = make("span");
  const more = make("button", { type: "button", class: "more", hidden: true, click: showAll });
  const table = make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, heads)), body);

  function head(column) {
    const button = make("button", { type: "button", title: column.hint, click: () => sortBy(column) }, column.title);
    return make("th", { scope: "col", class: column.text ? "text" : null, "data-key": column.key }, button);
  }

  function sortBy(column) {
    // Numbers begin with the highest, names with the first, costs with the lowest.
    by.descending = by.key === column.key ? !by.descending : !column.text && !column.lowFirst;
    by.key = column.key;
    render();
  }

  function showAll() {
    all = true;
    render();
    body.rows[AT_FIRST].querySelector("button").focus();
  }

  function lineRow(line) {
    const cells = columns.map((column, place) => {
      if (place) return make("td", { class: column.text ? "text" : null }, column.cell(line));
      const button = make("button", { type: "button", class: "open", click: () => open(line) }, column.cell(line));
      return make("th", { scope: "row", class: "name" }, button, line.says && small(line.says), line.notes.map((note) => small(make("em", {}, note))));
    });
    return make("tr", { class: line.tier ? "unranked" : null }, cells);
  }

  function render() {
    heads.forEach((th, place) => {
      if (columns[place].key === by.key) th.setAttribute("aria-sort", by.descending ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    const column = columns.find((one) => one.key === by.key);
    const shown = sorted(lines, column, by.descending);
    body.replaceChildren(...(all ? shown : shown.slice(0, AT_FIRST)).map(lineRow));
    more.hidden = all || shown.length <= AT_FIRST;
    more.textContent = `Show all ${count(shown.length)} lines`;
  }

  return {
    element: make("div", {}, scrolling(label, table), more),
    show(found, says) {
      lines = found;
      all = false;
      caption.textContent = lines.length ? says : "Nothing matches these filters.";
      render();
    },
  };
}
