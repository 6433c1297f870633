"use strict";
const $ = (selector) => document.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Light and dark: the system's choice until someone presses the button.
$("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// The table: header buttons sort, empty cells stay last; the search box wants every word, each choice its column.
const rows = all("#table tbody tr");
function sortBy(heading) {
  const place = [...heading.parentNode.children].indexOf(heading);
  const down = heading.getAttribute("aria-sort") === "ascending";
  all("#table th[aria-sort]").forEach((each) => each.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const numeric = heading.classList.contains("number");
  const key = (row) => (numeric ? row.children[place].dataset.value : row.children[place].textContent);
  rows.sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return (down ? -1 : 1) * (numeric ? a - b : a.localeCompare(b));
  });
  $("#table tbody").append(...rows);
}
all("#table th button").forEach((button) => button.addEventListener("click", () => sortBy(button.parentNode)));
function filter() {
  const words = $("#find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = all(".tools select[data-column]").filter((select) => select.value);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const cell = (name) => all("td", row).find((each) => each.dataset.column === name).textContent;
    row.hidden = !words.every((word) => text.includes(word)) || !chosen.every((s) => cell(s.dataset.column) === s.value);
  }
  $("#count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}
$("#find").addEventListener("input", filter);
all(".tools select[data-column]").forEach((select) => select.addEventListener("change", filter));
all('a[href^="#made-"]').forEach((link) =>
  link.addEventListener("click", () => ($(link.getAttribute("href")).open = true)),
);

// The gallery: two methods on each frame, the one on the left of the bar, the other on its right.
const { subjects, pictures } = JSON.parse($("#lanes").textContent);
const SVG = "http://www.w3.org/2000/svg";
const make = (name, className, text = "") => {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
};
const fails = (found) => found !== undefined && (found.fp > 0 || found.fn > 0);
const lanesOf = (found) => (found === undefined ? [] : found.lanes);
function drawing(frame, lanes, className, halo) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  for (const lane of lanes) {
    for (const kind of halo ? ["halo", "lane"] : ["dashed"]) {
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("points", lane.join(" "));
      line.setAttribute("class", kind);
      svg.append(line);
    }
  }
  return svg;
}
const scores = (found) => {
  if (found === undefined) return "no lanes kept";
  const counts = found.tp === undefined ? "" : `, ${found.tp} found, ${found.fp} false, ${found.fn} missed`;
  return `${found.lanes.length} lanes${counts}${found.lds === undefined ? "" : `, LDS ${found.lds.toFixed(1)} px`}`;
};
function figure(frame, left, right, badges) {
  const [a, b] = [frame.found[left.key], frame.found[right.key]];
  const view = make("div", "view");
  view.style.aspectRatio = `${frame.width} / ${frame.height}`;
  view.setAttribute("role", "img");
  view.setAttribute("aria-label", `Frame ${frame.name} ${frame.category}. ${left.label}: ${scores(a)}. ${right.label}: ${scores(b)}.`);
  if (pictures[frame.name]) {
    const image = make("img", "");
    image.src = pictures[frame.name];
    image.alt = `Camera frame ${frame.name} ${frame.category}`;
    view.append(image);
  }
  view.append(drawing(frame, lanesOf(a), "a", true), drawing(frame, lanesOf(b), "b", true));
  if ($("#full").checked) view.append(drawing(frame, lanesOf(frame.found.fp32), "full", false));
  if (frame.annotated && $("#truth").checked) view.append(drawing(frame, frame.annotated, "truth", false));
  view.append(make("span", "bar-line"), make("span", "tag l", left.label), make("span", "tag r", right.label));
  view.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse" || event.buttons) slideTo(event, view);
  });
  view.addEventListener("pointerdown", (event) => slideTo(event, view));
  const caption = make("figcaption", "");
  badges.forEach((word) => caption.append(make("span", "badge", word)));
  const line = (label, found) => make("div", "", `${label}: ${scores(found)}`);
  caption.append(`${frame.category} ${frame.name}`, line(left.label, a), line(right.label, b));
  const whole = make("figure", "");
  whole.append(view, caption);
  return whole;
}
function slideTo(event, view) {
  const box = view.getBoundingClientRect();
  slide(Math.round((100 * (event.clientX - box.left)) / box.width));
}
function slide(percent) {
  $("#split").value = percent;
  $("#frames").style.setProperty("--split", `${$("#split").value}%`);
}
function ordered(frames, key) {
  const lds = (frame) => frame.found[key]?.lds ?? -1;
  const worse = (one, other) => lds(other) - lds(one);
  const how = $("#order").value;
  if (how === "name") return [...frames].sort((one, other) => one.name.localeCompare(other.name));
  const failing = (frame) => (how === "failures" && fails(frame.found[key]) ? 1 : 0);
  return [...frames].sort((one, other) => failing(other) - failing(one) || worse(one, other));
}
function showFrames() {
  const subject = subjects[$("#subject").value];
  if (subject === undefined) return;
  const method = (id) => subject.methods.find((each) => each.key === $(id).value);
  const [left, right] = [method("#left"), method("#right")];
  const known = subject.frames.filter((frame) => frame.found[right.key]);
  const byDistortion = [...known].sort((one, other) => (other.found[right.key].lds ?? -1) - (one.found[right.key].lds ?? -1));
  const [worst, median] = [byDistortion[0], byDistortion[Math.floor((byDistortion.length - 1) / 2)]];
  const frames = ordered(known, right.key).filter((frame) => !$("#only").checked || fails(frame.found[right.key]));
  const badges = (frame) => [
    ...(fails(frame.found[right.key]) ? ["failure"] : []),
    ...(frame === worst && right.key !== "fp32" ? ["worst LDS"] : []),
    ...(frame === median && right.key !== "fp32" ? ["median LDS"] : []),
  ];
  $("#grid").replaceChildren(...frames.map((frame) => figure(frame, left, right, badges(frame))));
  $("#shown").textContent =
    `${frames.length} of ${subject.frames.length} frames. Cyan: ${left.label}, orange: ${right.label}, white dashes: annotation, violet: FP32. ` +
    `Badges and order are by ${right.label}; a failure misses or invents a lane (IoU 0.5).`;
}
function fill(id, entries, chosen) {
  $(id).replaceChildren(...entries.map(([value, label]) => new Option(label, value, false, value === chosen)));
}
function chooseSubject() {
  const subject = subjects[$("#subject").value];
  if (subject === undefined) return;
  const methods = subject.methods.map((each) => [each.key, each.label]);
  const keys = subject.methods.map((each) => each.key);
  const last = keys[keys.length - 1];
  const worst = keys.find((key) => key.startsWith("minmax") && key.endsWith(last.split(" ").pop())) ?? keys[0];
  fill("#left", methods, last);
  fill("#right", methods, worst);
  showFrames();
}
fill("#subject", subjects.map((subject, place) => [String(place), subject.name]), "0");
$("#subject").addEventListener("change", chooseSubject);
["#left", "#right", "#order", "#only", "#full", "#truth"].forEach((id) => $(id).addEventListener("change", showFrames));
$("#split").addEventListener("input", () => slide($("#split").value));
slide(50);
chooseSubject();
if (!subjects.length) $("#frames").hidden = true;
