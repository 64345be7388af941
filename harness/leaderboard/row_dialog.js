// The dialog that shows one row whole, or what a line averages. Views lie on a stack, so that there is a way back.

const METRICS = {
  auc: "AUC",
  aupr: "Average precision",
  tpr_at_fpr_1: "TPR at 1 % FPR, oracle",
  tpr_at_fpr_5: "TPR at 5 % FPR, oracle",
  tpr_at_fpr_10: "TPR at 10 % FPR, oracle",
  fpr_at_tpr_95: "FPR at 95 % TPR, oracle",
  f1_at_fpr_10: "F1 at 10 % FPR, oracle",
  heldout_tpr_1: "TPR, held out for 1 % FPR",
  realised_fpr_1: "Realised FPR, 1 % promised",
  heldout_tpr_5: "TPR, held out for 5 % FPR",
  realised_fpr_5: "Realised FPR, 5 % promised",
  heldout_tpr_10: "TPR, held out for 10 % FPR",
  realised_fpr_10: "Realised FPR, 10 % promised",
  heldout_f1_10: "F1, held out for 10 % FPR",
};

const WORD_METRICS = {
  auc_per_text: "AUC, mean over texts",
  auc_pooled: "AUC, all words together",
  precision_at_1: "Precision of the first word",
  precision_at_3: "Precision of the first three",
  r_precision: "R-precision",
};

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

function section(title, ...children) {
  return make("section", {}, make("h3", {}, title), ...children);
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
      section("Manifest", row.provenance ? facts(row.provenance.manifest) : notRecorded()),
    ],
  };
}

function notRecorded() {
  return make("p", {}, "not recorded: the row is older than rows that keep their command");
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

function marks(row) {
  const found = [];
  if (row.trains_on_adversarial_texts) found.push("This detector trained on adversarial texts: it is not ranked among those that did not.");
  if (row.limited) found.push("Limited: only the first texts of each sample were scored.");
  return found.map((text) => make("p", { class: "mark-note" }, text));
}

function detectionSections(row) {
  const { dataset, recipe, goal, victim, scenario } = row;
  const { n_clean, n_adversarial, n_calibration, run } = row;
  return [
    ...marks(row),
    facts({ dataset, recipe, goal, victim, scenario, run }),
    section("Metrics", estimates("Metrics", METRICS, row.metrics)),
    section("Comparisons on the same texts", comparisons(row.comparisons)),
    section("Texts", facts({ clean: n_clean, adversarial: n_adversarial, held_out_clean: n_calibration }), ...failures(row.failures)),
    section("Precision where few texts are adversarial", prevalence(row.prevalence)),
    section("Word evidence", words(row.words)),
    section("Cost of a text", facts(row.cost)),
  ];
}

function estimates(label, titles, metrics) {
  const lines = Object.entries(titles).filter(([key]) => metrics[key]);
  return plainTable(label, ["Metric", "%", "95 % interval"],
    lines.map(([key, title]) => [title, percent(metrics[key].value, 2), span(metrics[key], (share) => percent(share, 2)) || MISSING]));
}

function comparisons(found) {
  if (!found?.length) return make("p", {}, "none were made");
  const digits = (p) => (p === null ? MISSING : p < 0.001 ? p.toExponential(1) : p.toFixed(3));
  return plainTable("Comparisons", ["Against", "AUC difference, points", "95 % interval", "p", "p after Holm"],
    found.map(({ reference, auc_difference, p, p_holm }) =>
      [name(reference), percent(auc_difference.value, 2), span(auc_difference, (share) => percent(share, 2)) || MISSING, digits(p), digits(p_holm)]));
}

function failures(found) {
  if (!found) return [];
  const flagged = Object.entries(found.flagged).sort(([a], [b]) => a - b).map(([rate, share]) => `${percent(share)} % at ${rate} % FPR`);
  return [make("p", {}, `Attacks that failed: ${count(found.texts)} texts, AUC against clean ${percent(found.auc_against_clean)} %`, flagged.length ? `; flagged ${flagged.join(", ")}.` : ".")];
}

function prevalence(found) {
  const shares = Object.keys(found ?? {}).sort((a, b) => a - b);
  if (!shares.length) return make("p", {}, "not computed");
  const rates = ["1", "5", "10"];
  return plainTable("Precision", ["Share of adversarial texts", ...rates.map((rate) => `%, held out for ${rate} % FPR`)],
    shares.map((share) => [`${percent(Number(share))} %`, ...rates.map((rate) => percent(found[share][`precision_${rate}`], 2))]));
}

function words(found) {
  if (!found) return make("p", {}, "none: the detector scores no words, or they were not asked for");
  const counts = `${count(found.substituted)} of ${count(found.words)} words were put in by the attack, in ${count(found.texts)} texts of the first seed's sample.`;
  return make("div", {}, make("p", {}, counts), estimates("Word evidence", WORD_METRICS, found.metrics));
}

function sslSections(row) {
  const { encoder, objective, self_distill, arch, train_dataset, eval_dataset, n_train, n_test, run } = row;
  const kinds = [...new Set(row.readings.map((reading) => `${reading.protocol}, ${reading.pooling}`))];
  const layers = [...new Set(row.readings.map((reading) => reading.layer))].sort((a, b) => a - b);
  const at = new Map(row.readings.map((reading) => [`${reading.protocol}, ${reading.pooling}, ${reading.layer}`, reading.top1]));
  const geometry = Object.keys(row.layers[0] ?? {}).filter((key) => key !== "layer");
  const rounded = (value) => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : count(value));
  return [
    facts({ encoder, objective, self_distill, arch, train_dataset, eval_dataset, train_items: n_train, test_items: n_test, run }),
    section("Top-1 by layer, %", plainTable("Top-1 by layer", ["Layer", ...kinds], layers.map((layer) => [String(layer),
      ...kinds.map((kind) => (at.has(`${kind}, ${layer}`) ? estimateCell(at.get(`${kind}, ${layer}`)) : MISSING))]))),
    section("Geometry and cost of the layers", plainTable("Layers", ["Layer", ...geometry.map((key) => key.replaceAll("_", " "))],
      row.layers.map((layer) => [String(layer.layer), ...geometry.map((key) => rounded(layer[key]))]))),
    section("Cost", facts(row.cost)),
  ];
}

// What a line averages, a column a seed.
function seedsView(line, openRow) {
  const { rows } = line;
  const one = rows[0];
  const heads = rows.map((row) => make("button", { type: "button", class: "open", click: () => openRow(row) }, `Seed ${row.seed}`));
  const content = one.board === "detection"
    ? () => [
      ...marks(one),
      facts({ dataset: one.dataset, recipe: one.recipe, goal: one.goal, victim: one.victim, scenario: one.scenario }),
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
