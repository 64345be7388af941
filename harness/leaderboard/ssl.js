// The board of encoders: lines, columns, filters, and the picture of each layer's cost against what is read there.

const POINT = { layer: 0, value: 1, low: 2, high: 3, flops: 4 };

function asEstimate(point) {
  return { value: point[POINT.value], low: point[POINT.low], high: point[POINT.high] };
}

function bestOf(points) {
  // Of equal layers the first, which is the cheapest.
  return points.reduce((best, point) => (point[POINT.value] > best[POINT.value] ? point : best));
}

function sslLine(line, group, store) {
  const rows = line.rows.map(store.row);
  const one = rows[0];
  const points = new Map(group.protocols.map((protocol, at) => [protocol, line.points[at]]).filter(([, found]) => found.length));
  const seeds = rows.map((row) => row.seed).filter((seed) => seed !== null);
  const where = [one.eval_dataset, one.arch, ...(one.train_dataset === null ? [] : [`trained on ${one.train_dataset}`])];
  const times = rows.map((row) => row.cost.forward_ms_per_item);
  return {
    key: rows.map((row) => row.id).join(),
    name: line.label,
    rows,
    where,
    points,
    look: group.looks[line.label] ?? [0, "solid"],
    words: [line.label, ...where, ...rows.flatMap((row) => [row.id, row.run, row.encoder])].join(" "),
    tier: 0,
    notes: [],
    says: rows.length > 1 ? `mean of seeds ${seeds.join(", ")}` : seeds.length ? `seed ${seeds[0]}` : "",
    point: (protocol, which) => (points.has(protocol) ? (which === "last" ? points.get(protocol).at(-1) : bestOf(points.get(protocol))) : null),
    ms: times.includes(null) ? null : mean(times),
  };
}

function topColumn(protocol, which) {
  return {
    key: `${protocol}, ${which}`,
    title: `${protocol}, ${which} layer, %`,
    value: (line) => line.point(protocol, which)?.[POINT.value],
    cell: (line) => {
      const point = line.point(protocol, which);
      return point ? estimateCell(asEstimate(point), `layer ${point[POINT.layer]}`) : MISSING;
    },
  };
}

function sslColumns(protocols) {
  const flops = (line) => {
    const last = [...line.points.values()][0]?.at(-1)[POINT.flops];
    return last ? last / 1e9 : null;
  };
  return [
    { key: "name", title: "Encoder", text: true, value: (line) => line.name, cell: (line) => name(line.name) },
    { key: "where", title: "Read on", text: true, value: (line) => line.where.join(" "), cell: place },
    ...protocols.flatMap((protocol) => [topColumn(protocol, "last"), topColumn(protocol, "best")]),
    { key: "flops", title: "GFLOPs", hint: "Of one item up to the last layer; a multiply-add counts as two", lowFirst: true, value: flops, cell: (line) => short(flops(line)) },
    { key: "ms", title: "ms", hint: "Forward of one item", lowFirst: true, value: (line) => line.ms, cell: (line) => short(line.ms) },
    { key: "items", title: "Test items", value: (line) => line.rows[0].n_test, cell: (line) => range(line.rows.map((row) => row.n_test)) },
  ];
}

function sslBoard(board, store, groups, dialog) {
  const lines = (key) => groups.flatMap((group) => group[key].map((line) => sslLine(line, group, store)));
  const views = { means: lines("lines"), seeds: lines("samples") };
  const protocols = [...new Set(groups.flatMap((group) => group.protocols))];
  const way = (line) => ({ true: "self-distilled", false: "baseline" })[line.rows[0].self_distill] ?? "not known";
  const objective = (line) => line.rows[0].objective ?? "not known";
  const filters = makeFilters({
    prefix: "ssl-filter",
    label: "Filter the board of encoders",
    change: () => update(),
    fields: [
      { key: "view", label: "Lines", options: [["means", "one an encoder"], ["seeds", "one a seed"]] },
      { key: "dataset", label: "Read on", options: choices(views.means.map((line) => line.where[0])) },
      { key: "objective", label: "Objective", options: choices(views.means.map(objective)) },
      { key: "way", label: "Training", options: choices(views.means.map(way)) },
      { key: "protocol", label: "Protocol in the picture", options: protocols.map((protocol) => [protocol, protocol]) },
    ],
  });
  const table = makeTable({ label: "Encoders", columns: sslColumns(protocols), sort: { key: `${protocols[0]}, last`, descending: true }, open: dialog.openLine });
  const scatter = makeScatter({ title: "Cost against quality of layers", note: "Each mark is a layer: what an item costs up to it, and what is read there. Lines join the layers of an encoder. A click on a mark opens it." });
  board.append(filters.element, table.element, scatter.element);

  function update() {
    const wanted = { dataset: (line) => line.where[0], objective, way };
    const shown = views[filters.value("view")].filter((line) =>
      Object.entries(wanted).every(([key, of]) => !filters.value(key) || filters.value(key) === of(line)) && filters.matches(line.words));
    const rows = shown.reduce((sum, line) => sum + line.rows.length, 0);
    table.show(shown, filters.value("view") === "means" ? "Means over seeds; small print: layer, lowest and highest seed." : "Each seed; small print: layer and 95 % interval.");
    filters.say(`${count(shown.length)} lines, ${count(rows)} of ${count(views.seeds.length)} rows.`);
    scatter.show(sslPoints(shown, filters.value("protocol"), dialog));
  }

  update();
}

function sslPoints(lines, protocol, dialog) {
  const look = (line) => `c${line.look[0]} ${line.look[1]}`;
  const legend = new Map(lines.map((line) => [line.name, look(line)]));
  return {
    points: lines.flatMap((line, series) => (line.points.get(protocol) ?? []).map((point) => ({
      x: (point[POINT.flops] ?? 0) / 1e9,
      y: point[POINT.value],
      label: `${line.name}, ${line.where[0]}, layer ${point[POINT.layer]}`,
      look: look(line),
      tier: 0,
      series,
      open: () => dialog.openLine(line),
    }))),
    legend: [...legend].map(([label, found]) => ({ label, look: found })),
    xTitle: "GFLOPs of an item up to the layer, logarithmic",
    yTitle: `${protocol}, top-1 %`,
    labels: false,
    frontier: false,
  };
}
