// How numbers look, and what becomes of several of them.

const MISSING = "\u2013";

function percent(share, digits = 1) {
  return share === null || share === undefined ? MISSING : (100 * share).toFixed(digits).replace("-", "\u2212");
}

function count(value) {
  return value === null || value === undefined ? MISSING : value.toLocaleString("en-US");
}

// Three digits of a cost, whole from a hundred on.
function short(cost) {
  if (cost === null || cost === undefined) return MISSING;
  return cost >= 100 ? Math.round(cost).toLocaleString("en-US") : String(Number(cost.toPrecision(3)));
}

function span({ low, high }, show = percent) {
  return low === null || high === null || low === undefined || high === undefined ? "" : `${show(low)} to ${show(high)}`;
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// One estimate stays as it is; several become their mean with the lowest and the highest of them.
// The mean of those that have a value would pass for the mean of all, so one without a value leaves none.
function together(estimates) {
  if (estimates.length === 1) return estimates[0];
  const values = estimates.map((estimate) => estimate.value);
  if (!values.length || values.includes(null)) return { value: null, low: null, high: null };
  return { value: mean(values), low: Math.min(...values), high: Math.max(...values) };
}

function estimateCell(estimate, note = "") {
  return [percent(estimate.value), note && small(note), estimate.value !== null && small(span(estimate))].filter(Boolean);
}

// A count that lines have in common, or its range.
function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? count(low) : `${count(low)} to ${count(high)}`;
}
