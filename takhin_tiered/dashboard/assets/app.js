// What a page does beyond its HTML: live numbers, charts, and a dialog instead of a page to confirm on.
// Without this file every page still works.

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];

function size(bytes) {
  let unit = 0;
  while (Math.abs(bytes) >= 1024 && unit < SIZES.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit && bytes < 100 && !Number.isInteger(bytes) ? bytes.toFixed(1) : Math.round(bytes)} ${SIZES[unit]}`;
}

// --- live numbers ---------------------------------------------------------------------------------------------

function follow(address) {
  const connection = document.querySelector("[data-connection]");
  const resume = document.querySelector("[data-resume]");
  const tell = (state, text) => {
    connection.dataset.connection = state;
    connection.textContent = text;
    resume.hidden = state !== "paused";
  };
  let stream = null;
  const begin = () => {
    stream?.close();
    stream = new EventSource(address);
    stream.onopen = () => tell("open", "live");
    stream.onmessage = (event) => show(JSON.parse(event.data));
    // Newer pages took its place. It takes one back when somebody looks at it, not by itself: they would push each other out.
    stream.addEventListener("paused", () => {
      stream.close();
      tell("paused", "live updates are paused: other pages have them");
    });
    stream.onerror = () => {
      tell("closed", "not live");
      // A refusal ends it for good: ask again later.
      if (stream.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || begin(), 30000);
    };
  };
  // A page in the background needs no news, and leaves its place to others.
  document.addEventListener("visibilitychange", () => {
    stream?.close();
    if (!document.hidden) begin();
  });
  resume.addEventListener("click", begin);
  addEventListener("focus", () => resume.hidden || begin());
  addEventListener("pagehide", () => stream?.close());
  begin();
}

function show(news) {
  for (const element of document.querySelectorAll("[data-live]")) {
    const text = news.texts[element.dataset.live];
    if (text !== undefined && element.textContent !== text) element.textContent = text;
  }
  const count = document.querySelector("[data-problems]");
  count.hidden = !news.problems;
  count.textContent = news.problems;
  showTransfers(news);
  for (const row of document.querySelectorAll("[data-action]")) {
    const state = news.actions[row.dataset.action];
    // What changed with it is all over the page.
    if (state && state !== row.dataset.state && !document.querySelector("dialog[open]")) location.reload();
  }
}

function showTransfers(news) {
  const table = document.querySelector("[data-transfers]");
  if (!table) return;
  const body = table.tBodies[0];
  table.hidden = !news.transfers.length;
  document.querySelector("[data-no-transfers]").hidden = !table.hidden;
  const more = document.querySelector("[data-more]");
  more.hidden = !news.more;
  more.textContent = `and ${news.more} more`;
  const rows = new Map([...body.rows].map((row) => [row.dataset.key ?? "", row]));
  for (const each of news.transfers) {
    const key = `${each.verb} ${each.path}`;
    const row = rows.get(key) ?? newRow(each, key);
    rows.delete(key);
    const progress = row.querySelector("progress");
    progress.max = each.size || 1;
    progress.value = each.done;
    [each.text, each.rate, each.left].forEach((text, at) => (row.cells[3 + at].textContent = text));
    body.append(row);
  }
  for (const row of rows.values()) row.remove();
}

function newRow(each, key) {
  const row = document.createElement("tr");
  row.dataset.key = key;
  for (let at = 0; at < 6; at += 1) row.insertCell().className = at > 2 ? "number" : at === 1 ? "path" : "";
  row.cells[0].textContent = each.verb;
  const link = document.createElement("a");
  link.href = `/dashboard/segments/${each.path.split("/").map(encodeURIComponent).join("/")}`;
  link.textContent = each.path;
  row.cells[1].append(link);
  const progress = document.createElement("progress");
  progress.setAttribute("aria-label", `Progress of ${each.path}`);
  row.cells[2].append(progress);
  return row;
}

// --- confirm in a dialog --------------------------------------------------------------------------------------

async function confirmIn(dialog, link) {
  const address = new URL(link.href);
  address.searchParams.set("part", "true");
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) throw new Error("not a dialog");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  dialog.replaceChildren(...page.body.childNodes);
  dialog.querySelector("[data-close]").addEventListener("click", (event) => {
    event.preventDefault();
    dialog.close();
  });
  dialog.querySelector("form").addEventListener("submit", (event) => {
    const button = event.target.querySelector("button");
    button.textContent = "Working…";
    // A second click would do it twice.
    setTimeout(() => (button.disabled = true));
  });
  dialog.addEventListener("close", () => link.focus(), { once: true });
  dialog.showModal();
}

function askInDialogs() {
  const dialog = document.getElementById("dialog");
  if (!dialog?.showModal) return;
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    confirmIn(dialog, link).catch(() => location.assign(link.href));
  });
}

// --- charts ---------------------------------------------------------------------------------------------------

// Steps of the axis that are round in the units shown.
const BINARY = { size: 72, incrs: Array.from({ length: 53 }, (_, power) => 2 ** power) };

const KINDS = {
  bytes: { unit: size, axis: BINARY, series: [["On disk", "local_bytes", "--local"], ["In the archive", "archived_bytes", "--archived"]] },
  tiers: { unit: size, axis: BINARY, series: [["Hot", "hot_bytes", "--hot"], ["Warm", "warm_bytes", "--warm"], ["Cold", "cold_bytes", "--cold"]] },
  segments: { unit: (n) => n.toLocaleString("en"), axis: { size: 64 }, series: [["Hot", "hot", "--hot"], ["Warm", "warm", "--warm"], ["Cold", "cold", "--cold"]] },
  rates: { unit: (n) => `${size(n)}/s`, axis: { ...BINARY, size: 84 }, series: [["Upload", "upload_rate", "--archived"], ["Download", "download_rate", "--local"]] },
};

function draw(place, history) {
  const kind = KINDS[place.dataset.chart];
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const show = (value) => (value == null ? "–" : kind.unit(value));
  const axis = { stroke: colour("--faint"), font, grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
  const times = (_, moments) => moments.map((at) => {
    const [, month, day, clock] = /-(\d+)-(\d+)T(.{5})/.exec(new Date(at * 1000).toISOString());
    return clock === "00:00" ? `${Number(day)} ${MONTHS[month - 1]}` : clock;
  });
  place.replaceChildren();
  const chart = new uPlot(
    {
      width: Math.max(place.clientWidth, 200),
      height: 190,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] } },
      axes: [{ ...axis, values: times }, { ...axis, ...kind.axis, values: (_, values) => values.map(show) }],
      series: [
        { label: "UTC", value: (_, at) => (at == null ? "–" : new Date(at * 1000).toISOString().slice(5, 16).replace("T", " ")) },
        ...kind.series.map(([label, , name]) => ({ label, stroke: colour(name), width: 2, points: { show: false }, value: (_, value) => show(value) })),
      ],
    },
    [history.at, ...kind.series.map(([, field]) => history[field])],
    place,
  );
  chart.root.setAttribute("role", "img");
  chart.root.setAttribute("aria-label", `${place.dataset.chart} over the last ${place.dataset.hours} hours`);
  return chart;
}

async function drawCharts() {
  const places = [...document.querySelectorAll("[data-chart]")];
  if (!places.length || !window.uPlot) return;
  const answer = await fetch(`/dashboard/history.json?hours=${places[0].dataset.hours}`);
  if (!answer.ok) return;
  const history = await answer.json();
  if (history.at.length < 2) {
    for (const place of places) {
      place.className = "empty";
      place.textContent = "The history begins now: a point each minute.";
    }
    return;
  }
  let charts = [];
  const again = () => {
    charts.forEach((chart) => chart.destroy());
    charts = places.map((place) => draw(place, history));
  };
  again();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width === innerWidth) return;
    width = innerWidth;
    charts.forEach((chart, at) => chart.setSize({ width: Math.max(places[at].clientWidth, 200), height: 190 }));
  });
}

// --- keys -----------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  const field = document.querySelector("[data-search]");
  if (event.key !== "/" || !field || event.target.matches("input, select, textarea") || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  field.focus();
  field.select();
});

askInDialogs();
if (document.body.dataset.events) follow(document.body.dataset.events);
drawCharts();
