// Cost against quality: cost from left to right on a logarithmic axis, quality upwards.
//
// A point has `x`, `y`, `label`, `look` (class names), `tier`, `open`; points of one `series` are joined by a line.

const MARGIN = { left: 46, right: 16, top: 14, bottom: 44 };
const DOT = 5;

function makeScatter({ title, note }) {
  const picture = draw("svg", { class: "scatter", role: "img", "aria-label": title });
  const caption = make("figcaption", {}, title);
  const legend = make("ul", { class: "legend", "aria-label": "Legend", hidden: true });
  const element = make("figure", { class: "wide" }, caption, picture, legend, make("p", { class: "soft" }, note));
  let shown = null;
  let width = 0;

  function render() {
    if (!shown || !picture.clientWidth) return;
    width = picture.clientWidth;
    drawScatter(picture, width, shown);
    legend.hidden = !shown.legend;
    legend.replaceChildren(...(shown.legend ?? []).map(({ label, look }) => make("li", {},
      draw("svg", { class: look, viewBox: "0 0 28 12", "aria-hidden": "true" }, draw("path", { class: "line", d: "M1 6H27" }), draw("circle", { class: "mark", cx: 14, cy: 6, r: 4 })), name(label))));
  }

  new ResizeObserver(() => picture.clientWidth !== width && render()).observe(picture);
  return {
    element,
    show(found) {
      shown = { ...found, points: found.points.filter((point) => point.x > 0 && point.y !== null) };
      render();
    },
  };
}

function drawScatter(picture, width, { points, xTitle, yTitle, labels, frontier }) {
  const height = Math.min(440, Math.max(300, Math.round(width * 0.55)));
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("height", height);
  picture.replaceChildren(draw("desc", {}, described(points, xTitle, yTitle)));
  if (!points.length) {
    picture.append(draw("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "Nothing to show"));
    return;
  }
  const axes = scales(points, width, height);
  const put = { x: (point) => axes.x(point.x), y: (point) => axes.y(point.y) };
  picture.append(...grid(axes, width, height, xTitle, yTitle));
  if (frontier) picture.append(draw("path", { class: "frontier", d: frontierPath(points, put) }));
  picture.append(...seriesLines(points, put));
  for (const point of points) picture.append(dot(point, put));
  if (labels) picture.append(...placedLabels(points, put, width));
}

function described(points, xTitle, yTitle) {
  if (!points.length) return "No points.";
  const best = points.reduce((found, point) => (point.y > found.y ? point : found));
  return `${count(points.length)} points; ${xTitle} against ${yTitle}. The highest is ${best.label}: ${percent(best.y)} at ${short(best.x)}. The table has all numbers.`;
}

function scales(points, width, height) {
  const logs = points.map((point) => Math.log10(point.x));
  let [first, last] = [Math.min(...logs), Math.max(...logs)];
  const room = Math.max(0.08 * (last - first), 0.15);
  [first, last] = [first - room, last + room];
  const values = points.map((point) => 100 * point.y);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const step = [1, 2, 5, 10, 20, 50].find((one) => (most - least) / one < 6) ?? 50;
  const [bottom, top] = [Math.floor(least / step) * step, Math.max(Math.ceil(most / step) * step, Math.floor(least / step) * step + step)];
  const across = width - MARGIN.left - MARGIN.right;
  const up = height - MARGIN.top - MARGIN.bottom;
  return {
    x: (cost) => MARGIN.left + ((Math.log10(cost) - first) / (last - first)) * across,
    y: (share) => height - MARGIN.bottom - ((100 * share - bottom) / (top - bottom)) * up,
    xTicks: logTicks(first, last),
    yTicks: Array.from({ length: Math.round((top - bottom) / step) + 1 }, (_, at) => bottom + at * step),
  };
}

function logTicks(first, last) {
  const leading = last - first > 3 ? [1] : last - first > 0.9 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const found = [];
  for (let power = Math.floor(first); power <= last; power += 1) {
    for (const digit of leading) found.push(digit * 10 ** power);
  }
  return found.filter((tick) => Math.log10(tick) >= first && Math.log10(tick) <= last);
}

function grid(axes, width, height, xTitle, yTitle) {
  const base = height - MARGIN.bottom;
  return [
    ...axes.yTicks.flatMap((tick) => [
      draw("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: axes.y(tick / 100), y2: axes.y(tick / 100) }),
      draw("text", { x: MARGIN.left - 6, y: axes.y(tick / 100), dy: ".35em", "text-anchor": "end" }, String(tick))]),
    draw("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: base, y2: base }),
    ...axes.xTicks.flatMap((tick) => [
      draw("line", { class: "axis", x1: axes.x(tick), x2: axes.x(tick), y1: base, y2: base + 4 }),
      draw("text", { x: axes.x(tick), y: base + 17, "text-anchor": "middle" }, short(tick))]),
    draw("text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 8, "text-anchor": "middle" }, xTitle),
    draw("text", { transform: `translate(12 ${(MARGIN.top + base) / 2}) rotate(-90)`, "text-anchor": "middle" }, yTitle),
  ];
}

// The best that a cost buys, among those that are ranked.
function frontierPath(points, put) {
  const ranked = points.filter((point) => point.tier === 0).sort((a, b) => a.x - b.x || b.y - a.y);
  const best = ranked.filter((point, at) => ranked.slice(0, at).every((other) => other.y < point.y));
  return best.map((point, at) => (at ? `H${put.x(point)}V${put.y(point)}` : `M${put.x(point)} ${put.y(point)}`)).join("");
}

function seriesLines(points, put) {
  const series = new Map();
  for (const point of points) if (point.series !== undefined) series.set(point.series, [...(series.get(point.series) ?? []), point]);
  return [...series.values()].map((members) => draw("g", { class: members[0].look },
    draw("path", { class: "line", d: `M${members.map((point) => `${put.x(point)} ${put.y(point)}`).join("L")}` })));
}

function dot(point, put) {
  const told = `${point.label}: ${percent(point.y)} at ${short(point.x)}`;
  const mark = draw("circle", { class: "mark", cx: put.x(point), cy: put.y(point), r: DOT, click: point.open }, draw("title", {}, told));
  return draw("g", { class: `${point.look}${point.tier ? " hollow" : ""}` }, mark);
}

// Names beside their points where there is room; the others show theirs to the pointer, and the table has them all.
function placedLabels(points, put, width) {
  const taken = points.map((point) => box(put.x(point) - DOT, put.y(point) - DOT, 2 * DOT, 2 * DOT));
  const placed = [];
  for (const point of [...points].sort((a, b) => b.y - a.y)) {
    const [x, y, long] = [put.x(point), put.y(point), 6.6 * point.label.length];
    const spots = [[x + 9, y - 6], [x - 9 - long, y - 6], [x - long / 2, y - 20], [x - long / 2, y + 9]];
    const free = spots.map(([left, top]) => box(left, top, long, 12)).find((one) =>
      one.left >= MARGIN.left && one.right <= width && !taken.some((other) => overlap(one, other)));
    if (!free) continue;
    taken.push(free);
    placed.push(draw("text", { class: "label", x: free.left, y: free.top + 10 }, point.label));
  }
  return placed;
}

function box(left, top, wide, high) {
  return { left, top, right: left + wide, bottom: top + high };
}

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
