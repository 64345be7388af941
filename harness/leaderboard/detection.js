// The detection board: lines, columns, filters, and the picture of cost against quality.

const WHERE = ["dataset", "recipe", "goal", "victim", "scenario"];
const CLASSES = { none: "fitted on clean texts", tunes: "tuned on attacks", trains: "trained on attacks" };
const COSTS = {
  ms_per_text: "ms a text",
  forwards_per_text: "Forwards of the victim a text",
  passes: "All passes a text: forwards, backwards, other models",
};

function detectorClass(row) {
  const told = row.protocol.detector?.adversarial_texts;
  if (row.trains_on_adversarial_texts) return CLASSES.trains;
  return CLASSES[told] ?? "not recorded";
}

// Rows of other samples are other cells: dear detectors draw fewer texts, and their references with them.
function cellOf(row) {
  const { target, validation_fraction, dear_texts } = row.protocol.sampling ?? {};
  return JSON.stringify([...WHERE.map((key) => row[key]), target, validation_fraction, dear_texts]);
}

function costOf(row, key) {
  const { cost } = row;
  return key === "passes" ? cost.forwards_per_text + (cost.backwards_per_text ?? 0) + (cost.other_forwards_per_text ?? 0) : cost[key];
}

// Rows that are averaged: one seed, or all seeds of a detector in a cell.
function detectionLine(rows) {
  const one = rows[0];
  const trains = one.trains_on_adversarial_texts;
  const known = new Map();
  const where = WHERE.map((key) => one[key]);
  const kind = detectorClass(one);
  return {
    key: rows.map((row) => row.id).join(),
    name: one.detector,
    rows,
    where,
    cell: cellOf(one),
    kind,
    words: [one.detector, ...where, kind, ...rows.flatMap((row) => [row.id, row.run])].join(" "),
    tier: trains ? 2 : 0,
    notes: [trains && "trained on adversarial texts, not ranked", one.limited && "limited: first texts only"].filter(Boolean),
    says: rows.length > 1 ? `mean of seeds ${rows.map((row) => row.seed).join(", ")}` : `seed ${one.seed}`,
    estimate(key) {
      if (!known.has(key)) known.set(key, together(rows.map((row) => row.metrics[key])));
      return known.get(key);
    },
    cost: (key) => mean(rows.map((row) => costOf(row, key))),
    texts: rows.map((row) => row.n_adversarial),
  };
}

// The cells that count: those of at least half as many ranked detectors as the fullest has.
function countedCells(lines) {
  const cells = new Map();
  for (const line of lines) if (line.tier < 2) cells.set(line.cell, (cells.get(line.cell) ?? new Set()).add(line.name));
  const fullest = Math.max(0, ...[...cells.values()].map((names) => names.size));
  return new Set([...cells].filter(([, names]) => 2 * names.size >= fullest).map(([cell]) => cell));
}

// A line a detector: the mean over its cells that count, or over those it has where none does.
function overview(lines, counted) {
  const detectors = new Map();
  for (const line of lines) detectors.set(line.name, [...(detectors.get(line.name) ?? []), line]);
  return [...detectors].map(([detector, all]) => {
    const inside = all.filter((line) => counted.has(line.cell));
    const members = inside.length ? inside : all;
    const cells = new Set(inside.map((line) => line.cell)).size;
    const trains = members.some((line) => line.tier === 2);
    const few = cells < counted.size;
    return {
      key: detector,
      name: detector,
      members,
      kind: members[0].kind,
      cells,
      tier: trains ? 2 : few ? 1 : 0,
      notes: [
        trains && "trained on adversarial texts, not ranked",
        few && (cells ? `in ${cells} of ${counted.size} cells, not compared` : "in no cell that counts, not compared"),
        members.some((line) => line.rows[0].limited) && "limited: first texts only",
      ].filter(Boolean),
      says: "",
      estimate: (key) => together(members.map((line) => line.estimate(key))),
      cost: (key) => mean(members.map((line) => line.cost(key))),
    };
  });
}

function metricColumn(key, title, hint) {
  return { key, title, hint, value: (line) => line.estimate(key).value, cell: (line) => estimateCell(line.estimate(key)) };
}

function costColumn(key, title, hint) {
  return { key, title, hint, lowFirst: true, value: (line) => line.cost(key), cell: (line) => short(line.cost(key)) };
}

function detectionColumns(second) {
  return [
    { key: "name", title: "Detector", text: true, value: (line) => line.name, cell: (line) => name(line.name) },
    second,
    metricColumn("auc", "AUC, %", "Area under the ROC curve"),
    metricColumn("tpr_at_fpr_10", "Oracle TPR, %", "True-positive rate at 10 % FPR, threshold chosen on the test texts"),
    metricColumn("f1_at_fpr_10", "Oracle F1, %", "F1 at that threshold"),
    metricColumn("heldout_tpr_10", "Held-out TPR, %", "True-positive rate, threshold for 10 % FPR chosen on held-out clean texts"),
    { ...metricColumn("realised_fpr_10", "Realised FPR, %", "False-positive rate at that threshold; 10 % was promised"), lowFirst: true },
    costColumn("forwards_per_text", "Forwards", "Forward passes of the victim for a text"),
    costColumn("ms_per_text", "ms", "Milliseconds for a text"),
  ];
}

const CELLS = { key: "cells", title: "Cells", value: (line) => line.cells, cell: (line) => count(line.cells) };
const PLACE = { key: "where", title: "Cell", text: true, value: (line) => line.where.join(" "), cell: place };
const TEXTS = { key: "texts", title: "Adversarial texts", value: (line) => mean(line.texts), cell: (line) => range(line.texts) };

function detectionBoard(board, store, bundles, dialog) {
  const rows = bundles.flat().map(store.row);
  const byCell = bundles.map((bundle) => detectionLine(bundle.map(store.row)));
  let bySeed = null;
  const first = usualKind(byCell);
  const filters = makeFilters({
    prefix: "detection-filter",
    label: "Filter the detection board",
    change: () => update(),
    fields: [
      { key: "view", label: "Lines", options: [["overview", "one a detector"], ["cells", "one a cell"], ["seeds", "one a seed"]] },
      ...WHERE.map((key) => ({ key, label: key[0].toUpperCase() + key.slice(1), initial: first[key] ?? "", options: choices(rows.map((row) => row[key])) })),
      { key: "kind", label: "Class of detector", options: choices(byCell.map((line) => line.kind)) },
      { key: "cost", label: "Cost in the picture", options: Object.entries(COSTS) },
    ],
  });
  const sort = { key: "auc", descending: true };
  const means = makeTable({ label: "Detectors, means over cells", columns: detectionColumns(CELLS), sort, open: dialog.openCells });
  const cells = makeTable({ label: "Detectors in cells", columns: [...detectionColumns(PLACE), TEXTS], sort, open: dialog.openLine });
  const scatter = makeScatter({
    title: "Cost against quality",
    note: "The stepped line is the best AUC that a cost buys, among the detectors that are ranked. Hollow marks are not ranked. A click on a mark opens it.",
  });
  board.append(filters.element, means.element, cells.element, scatter.element);

  function update() {
    const view = filters.value("view");
    const inCells = (line) => WHERE.every((key, at) => !filters.value(key) || filters.value(key) === line.where[at]);
    const wanted = (line) => (!filters.value("kind") || filters.value("kind") === line.kind) && filters.matches(line.words);
    if (view === "seeds") bySeed ??= rows.map((row) => detectionLine([row]));
    const available = (view === "seeds" ? bySeed : byCell).filter(inCells);
    const counted = countedCells(available);
    const chosen = available.filter(wanted);
    const lines = view === "overview" ? overview(chosen, counted) : chosen;
    means.element.hidden = view !== "overview";
    cells.element.hidden = view === "overview";
    const says = { overview: `Means over ${count(counted.size)} cells that count; small print: lowest and highest cell.`, cells: "Means over seeds in each cell; small print: lowest and highest seed, or the 95 % interval of a single one.", seeds: "Each seed; small print: its 95 % interval." };
    (view === "overview" ? means : cells).show(lines, says[view]);
    const all = new Set(chosen.map((line) => line.cell)).size;
    filters.say(`${count(lines.length)} lines of ${count(all)} cells, ${count(chosen.reduce((sum, line) => sum + line.rows.length, 0))} of ${count(rows.length)} rows.`);
    scatter.show(detectionPoints(lines, filters.value("cost"), view, dialog));
    showRanks(filters);
  }

  update();
}

// What the board shows at first: the published protocol on plain attacks, else the scenario and goal of most lines.
function usualKind(lines) {
  const published = { scenario: "s1", goal: "flip" };
  if (lines.some(({ where: [, , goal, , scenario] }) => goal === published.goal && scenario === published.scenario)) return published;
  const kinds = new Map();
  for (const { where: [, , goal, , scenario] } of lines) {
    const kind = JSON.stringify([scenario, goal]);
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  const [most] = [...kinds].sort(([a, m], [b, n]) => n - m || COLLATOR.compare(a, b));
  const [scenario, goal] = most ? JSON.parse(most[0]) : [];
  return { scenario, goal };
}

function detectionPoints(lines, cost, view, dialog) {
  const kinds = Object.values(CLASSES);
  const look = (line) => `c${Math.max(0, kinds.indexOf(line.kind))}`;
  const used = kinds.filter((kind) => lines.some((line) => line.kind === kind));
  return {
    points: lines.map((line) => ({
      x: line.cost(cost),
      y: line.estimate("auc").value,
      label: view === "overview" ? line.name : `${line.name}, ${line.where[0]}, ${line.where[1]}`,
      look: look(line),
      tier: line.tier,
      open: () => (view === "overview" ? dialog.openCells(line) : dialog.openLine(line)),
    })),
    legend: used.length > 1 ? used.map((kind) => ({ label: kind, look: `c${kinds.indexOf(kind)} points` })) : null,
    xTitle: `${COSTS[cost]}, logarithmic`,
    yTitle: "AUC, %",
    labels: view === "overview",
    frontier: view === "overview",
  };
}

// The pictures of average ranks were made with the page, one a scenario and goal, over all cells of theirs.
function showRanks(filters) {
  const figures = [...document.querySelectorAll("figure[data-scenario]")];
  for (const figure of figures) {
    figure.hidden = ["scenario", "goal"].some((key) => filters.value(key) && filters.value(key) !== figure.dataset[key]);
  }
  const note = document.getElementById("ranks-note");
  if (!note) return;
  const narrowed = ["dataset", "recipe", "victim", "kind"].some((key) => filters.value(key));
  const shown = figures.some((figure) => !figure.hidden);
  note.hidden = shown && !narrowed;
  note.textContent = shown ? "These pictures follow the filters of scenario and goal only: they are over all cells of theirs." : "There are too few cells of this scenario and goal to rank detectors over them.";
}
