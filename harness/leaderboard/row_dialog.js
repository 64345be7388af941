// The dialog that shows one row whole, or what a line averages. Views lie on a stack, so that there is a way back.

const ROW_LINK = /^#row-([0-9a-f]+)$/;

function makeDialog(element, store) {
  const views = [];

  function show() {
    const view = views.at(-1);
    const title = make("h2", { id: "row-title", tabindex: "-1" }, view.title);
    const bar = make("div", { class: "bar" },
      views.length > 1 && make("button", { type: "button", click: back }, "Back"),
      make("button", { type: "button", class: "close", click: () => element.close() }, "Close"));
    element.replaceChildren(bar, title, ...view.content());
    address(view.id ? `#row-${view.id}` : "");
    if (!element.open) element.showModal();
    element.scrollTop = 0;
    title.focus();
  }

  function push(view) {
    views.push(view);
    show();
  }

  function back() {
    views.pop();
    show();
  }

  // The address names the open row, and is left as it was found when it named something else.
  function address(hash) {
    if (location.hash === hash || (!hash && !ROW_LINK.test(location.hash))) return;
    history.replaceState(null, "", hash || location.href.split("#")[0]);
  }

  const openRow = (row) => push(rowView(row, openRow));
  const openLine = (line) => (line.rows.length === 1 ? openRow(line.rows[0]) : push(seedsView(line, openRow)));
  const openCells = (line) => (line.members.length === 1 ? openLine(line.members[0]) : push(cellsView(line, openLine)));

  function follow() {
    const [, id] = ROW_LINK.exec(location.hash) ?? [];
    if (!id || (element.open && views.at(-1)?.id === id)) return;
    const row = store.byId(id);
    views.length = 0;
    if (row) openRow(row);
    else push({ id, title: "No such row", content: () => [make("p", {}, `This page has no row ${id}.`)] });
  }

  element.addEventListener("close", () => {
    views.length = 0;
    address("");
  });
  // A click on the backdrop is one on the dialog itself.
  element.addEventListener("click", (event) => event.target === element && element.close());
  window.addEventListener("hashchange", follow);
  return { openRow, openLine, openCells, follow };
}

function rowView(row, openRow) {
  const of = row.board === "detection" ? detectionSections : sslSections;
  const link = make("a", { href: `#row-${row.id}` }, `#row-${row.id}`);
  return {
    id: row.id,
    title: [name(row.detector ?? row.encoder), row.seed === null ? "" : `, seed ${row.seed}`],
    content: () => [
      make("p", { class: "soft" }, "Link to this row: ", link, ". All digits: ", make("code", {}, `results/${row.board}/${row.id}.json`)),
      ...of(row),
      section("Command", ...commandOf(row)),
      section("Whole protocol", facts(row.protocol)),
      section("Manifest", row.provenance?.manifest ? facts(row.provenance.manifest) : notRecorded()),
    ],
  };
}

function notRecorded() {
  return make("p", {}, "not recorded: the row is older than rows that keep it");
}

function commandOf(row) {
  if (!row.provenance) return [notRecorded()];
  const { command } = row.provenance;
  const status = make("span", { role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(command);
      status.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(text);
      status.textContent = "The browser did not let this page copy. The command is selected: copy it by keyboard.";
    }
  };
  const text = make("code", {}, command);
  return [make("pre", { class: "command", tabindex: "0" }, text), make("p", {}, make("button", { type: "button", click: copy }, "Copy the command"), " ", status)];
}

// What a line averages, a column a seed.
function seedsView(line, openRow) {
  const { rows } = line;
  const one = rows[0];
  const heads = rows.map((row) => make("button", { type: "button", class: "open", click: () => openRow(row) }, `Seed ${row.seed}`));
  const content = one.board === "detection"
    ? () => [
      ...marks(one),
      facts({ dataset: one.dataset, recipe: one.recipe, goal: one.goal, victim: one.victim, scenario: one.scenario, adversarial_texts: rows.map((row) => row.n_adversarial), clean_texts: rows.map((row) => row.n_clean) }),
      plainTable("Metrics of each seed", ["%", "Mean", ...heads], Object.entries(METRICS).map(([key, title]) =>
        [title, percent(together(rows.map((row) => row.metrics[key])).value), ...rows.map((row) => estimateCell(row.metrics[key]))])),
    ]
    : () => [make("ul", {}, heads.map((head) => make("li", {}, head)))];
  return { title: [name(line.name), `, ${rows.length} seeds`], content: () => [make("p", {}, "Each seed opens with its comparisons, command and protocol."), ...content()] };
}

// What a mean over cells averages, a line a cell.
function cellsView(line, openLine) {
  const lines = [...line.members].sort((a, b) => COLLATOR.compare(a.where.join(), b.where.join()));
  const shown = { auc: "AUC", heldout_tpr_10: "Held-out TPR", realised_fpr_10: "Realised FPR" };
  return {
    title: [name(line.name), `, ${lines.length} cells`],
    content: () => [
      ...marks(lines[0].rows[0]),
      plainTable("Cells", ["Cell", ...Object.values(shown).map((title) => `${title}, %`), "ms"], lines.map((cell) => [
        make("button", { type: "button", class: "open", click: () => openLine(cell) }, place(cell)),
        ...Object.keys(shown).map((key) => estimateCell(cell.estimate(key))), short(cell.cost("ms_per_text"))])),
    ],
  };
}

// Where a line was measured.
function place({ where: [dataset, ...rest] }) {
  return [name(dataset), small(rest.flatMap((part, at) => [at ? " \u00b7 " : "", name(part)]))];
}
