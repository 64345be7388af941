// What a row says, section by section: its metrics, comparisons, texts, words, layers and costs.

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

function section(title, ...children) {
  return make("section", {}, make("h3", {}, title), ...children);
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
