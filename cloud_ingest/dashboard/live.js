// The live page: the current values of one device, asked for every two seconds.

const REFRESH_MS = 2000;
const DEVICES_EVERY_MS = 10000;
const TIMEOUT_MS = 8000;
// Until a series has shown how often it is measured, it counts as stale after this; later after three intervals.
const STALE_UNKNOWN_MS = 60000;
const STALE_LEAST_MS = 10000;

const page = {
  device: document.getElementById("device"),
  state: document.getElementById("state"),
  error: document.getElementById("error"),
  empty: document.getElementById("empty"),
  metrics: document.getElementById("metrics"),
};

let devices = [];
let devicesAskedAt = -Infinity;
let chosen = location.hash.slice(1); // device ids need no escaping
let shownDevice = null;
// How far the server's clock is ahead of this browser's: ages are told by the server's.
let clockOffsetMs = 0;
const groups = new Map(); // metric -> {section, list}
const rows = new Map(); // series -> what was last seen of it and its elements

class Answer extends Error {}

async function ask(address) {
  const response = await fetch(address, { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" });
  const date = Date.parse(response.headers.get("date"));
  if (!Number.isNaN(date)) {
    // The header has whole seconds, the moment lies half of one behind on average.
    const offset = date + 500 - Date.now();
    clockOffsetMs = Math.abs(offset) < 1500 ? 0 : offset;
  }
  const body = await response.json();
  if (!response.ok) throw new Answer(body.detail ?? response.statusText);
  return body;
}

async function allPages(address) {
  const items = [];
  let cursor = null;
  do {
    const separator = address.includes("?") ? "&" : "?";
    const page = await ask(cursor ? `${address}${separator}cursor=${encodeURIComponent(cursor)}` : address);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor);
  return items;
}

// Values as people read them

const number = (digits) => new Intl.NumberFormat(undefined, { maximumFractionDigits: digits });
const tenths = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const plain = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 6 });
const tiny = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });

function scaled(value, base, prefixes, unit) {
  let step = 0;
  while (Math.abs(value) >= base && step < prefixes.length - 1) {
    value /= base;
    step += 1;
  }
  return `${number(step === 0 ? 0 : 2).format(value)} ${prefixes[step]}${unit}`;
}

function duration(seconds) {
  if (Math.abs(seconds) < 60) return `${number(3).format(seconds)} s`;
  const sign = seconds < 0 ? "−" : "";
  let rest = Math.round(Math.abs(seconds));
  const parts = [];
  for (const [name, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count > 0) parts.push(`${count} ${name}`);
  }
  return sign + parts.slice(0, 2).join(" ");
}

const SIGNS = { percent: "%", celsius: "°C", volts: "V", amperes: "A", watts: "W", pascals: "Pa" };

function formatted(value, unit) {
  switch (unit) {
    case "bytes": return scaled(value, 1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi"], "B");
    case "hertz": return scaled(value, 1000, ["", "k", "M", "G"], "Hz");
    case "seconds": return duration(value);
    case "percent":
    case "celsius": return `${tenths.format(value)} ${SIGNS[unit]}`;
    default: {
      const text = value !== 0 && Math.abs(value) < 0.001 ? tiny.format(value) : plain.format(value);
      return SIGNS[unit] ? `${text} ${SIGNS[unit]}` : text;
    }
  }
}

function ageText(ms) {
  return ms < 1500 ? "now" : `${duration(Math.round(ms / 1000))} ago`;
}

// Elements

function element(tag, className, parent) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  parent?.append(made);
  return made;
}

function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function groupOf(metric) {
  let group = groups.get(metric);
  if (!group) {
    const section = element("section", "metric");
    const heading = element("h2", "", section);
    heading.textContent = metric;
    heading.id = `metric-${groups.size}-${metric}`;
    section.setAttribute("aria-labelledby", heading.id);
    const list = element("ul", "", section);
    group = { section, list };
    groups.set(metric, group);
    const next = [...groups.keys()].sort().find((name) => name > metric);
    page.metrics.insertBefore(section, next ? groups.get(next).section : null);
  }
  return group;
}

function rowOf(item) {
  const labels = Object.entries(item.labels).map(([name, value]) => `${name}=${value}`).join(", ");
  const key = JSON.stringify([item.metric, labels]);
  let row = rows.get(key);
  if (!row) {
    const line = element("li", "", groupOf(item.metric).list);
    const reading = element("div", "reading", line);
    element("span", "labels", reading).textContent = labels;
    row = {
      metric: item.metric,
      line,
      value: element("span", "value", reading),
      age: element("span", "age", reading),
      rate: element("span", "rate", reading),
      meter: null,
      timeMs: null,
      number: null,
      intervalMs: null,
    };
    if (item.unit === "percent") {
      row.meter = element("meter", "", line);
      row.meter.min = 0;
      row.meter.max = 100;
      row.meter.setAttribute("aria-label", `${item.metric} ${labels}`);
    }
    rows.set(key, row);
  }
  return [key, row];
}

function showItem(item) {
  const [key, row] = rowOf(item);
  const timeMs = Date.parse(item.time);
  if (row.timeMs !== null && timeMs > row.timeMs) {
    row.intervalMs = timeMs - row.timeMs;
    const increase = item.value - row.number;
    if (item.metric.endsWith("_total") && item.value !== null && row.number !== null && increase >= 0) {
      setText(row.rate, `${formatted(increase / (row.intervalMs / 1000), item.unit)}/s`);
    } else {
      setText(row.rate, "");
    }
  }
  row.timeMs = timeMs;
  row.number = item.value;
  setText(row.value, item.value === null ? "no value" : formatted(item.value, item.unit));
  if (row.meter) row.meter.value = item.value ?? 0;
  return key;
}

function showAges() {
  const now = Date.now() + clockOffsetMs;
  for (const row of rows.values()) {
    const age = now - row.timeMs;
    const limit = row.intervalMs === null ? STALE_UNKNOWN_MS : Math.max(STALE_LEAST_MS, 3 * row.intervalMs);
    const stale = age > limit;
    row.line.classList.toggle("stale", stale);
    setText(row.age, stale ? `stale: ${ageText(age)}` : ageText(age));
  }
}

function clearValues() {
  groups.clear();
  rows.clear();
  page.metrics.replaceChildren();
}

function removeRow(key) {
  const row = rows.get(key);
  row.line.remove();
  rows.delete(key);
  const group = groups.get(row.metric);
  if (!group.list.hasChildNodes()) {
    group.section.remove();
    groups.delete(row.metric);
  }
}

function showDevices() {
  const names = devices.map((device) => device.device);
  if (names.join("\n") !== [...page.device.options].map((option) => option.value).join("\n")) {
    page.device.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  if (!names.includes(chosen)) {
    const newest = [...devices].sort((a, b) => (b.newest_reading ?? "").localeCompare(a.newest_reading ?? ""));
    chosen = newest[0]?.device ?? "";
  }
  page.device.value = chosen;
  const device = devices.find((one) => one.device === chosen);
  const state = !device || device.online === null ? "" : device.online ? "online" : "offline";
  setText(page.state, device ? [`site ${device.site}`, state].filter(Boolean).join(" · ") : "");
  page.state.className = state === "offline" ? "offline" : "quiet";
}

// Cause and effect

async function refresh() {
  if (performance.now() - devicesAskedAt > DEVICES_EVERY_MS || devices.length === 0) {
    devices = await allPages("/api/v1/devices?limit=1000");
    devicesAskedAt = performance.now();
  }
  showDevices();
  if (!chosen) {
    clearValues();
    return "No device has sent anything yet. Values appear here as soon as one does.";
  }
  const asked = chosen;
  const items = await allPages(`/api/v1/metrics/current?device=${encodeURIComponent(asked)}`);
  if (asked !== chosen) return null; // another device was chosen meanwhile
  if (asked !== shownDevice) {
    clearValues();
    shownDevice = asked;
  }
  const present = new Set(items.map(showItem));
  for (const key of [...rows.keys()]) if (!present.has(key)) removeRow(key);
  return items.length === 0 ? "This device has no values in the time that is kept." : null;
}

let running = null;

function refreshNow() {
  running ??= refresh()
    .then(
      (empty) => {
        page.error.hidden = true;
        page.empty.hidden = empty === null;
        if (empty !== null) setText(page.empty, empty);
      },
      (error) => {
        const why = error instanceof Answer ? error.message : "the API can't be reached";
        setText(page.error, `These values are not being updated: ${why}. Trying again every two seconds.`);
        page.error.hidden = false;
        page.empty.hidden = rows.size > 0;
      },
    )
    .finally(() => {
      showAges();
      running = null;
    });
  return running;
}

function choose(device) {
  chosen = device;
  location.hash = device;
  showDevices();
  const again = () => refreshNow();
  running ? running.then(again) : again();
}

page.device.addEventListener("change", () => choose(page.device.value));
window.addEventListener("hashchange", () => {
  const device = location.hash.slice(1);
  if (device !== chosen) choose(device);
});
setInterval(showAges, 1000);
setInterval(() => { if (!document.hidden) refreshNow(); }, REFRESH_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refreshNow(); });
refreshNow();
