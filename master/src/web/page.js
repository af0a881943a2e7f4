"use strict";
// Everything is drawn from one answer. Text goes in as text nodes only, never as markup. A part of the page is touched
// only when what it shows has changed, so that nothing flickers, selections stay, and screen readers hear changes only.

const EVERY_MS = 2000;
const GIVE_UP_MS = 8000;
const byId = (id) => document.getElementById(id);

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== "") made.setAttribute(key, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) made.append(child);
  }
  return made;
}

const drawn = new Map();
function draw(id, data, build) {
  const seen = JSON.stringify(data);
  if (drawn.get(id) === seen) return;
  drawn.set(id, seen);
  byId(id).replaceChildren(...build(data));
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}
const number = (count) => Math.round(count).toLocaleString("en");
const counted = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
function duration(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}
const bar = (used, total) => {
  const share = total > 0 ? Math.min(100, 100 * used / total) : 0;
  const fill = element("span");
  fill.style.width = `${share.toFixed(1)}%`;
  return element("span", { class: share >= 95 ? "bar full" : "bar", "aria-hidden": "true" }, fill);
};
// `name` stands before the value where the columns have no room.
const cell = (text, kind, name) => element("td", { class: kind, "data-name": name }, text);
const head = (...names) => element("thead", {}, element("tr", {}, names.map(([name, kind]) =>
  element("th", { scope: "col", class: kind }, name))));
const none = (text) => [element("tbody", {}, element("tr", {}, element("td", { class: "quiet" }, text)))];

function figures(status) {
  const figure = (name, value, detail) => element("div", {},
    element("dt", {}, name), element("dd", {}, value, detail ? element("small", {}, detail) : null));
  const { space, counts } = status;
  return [
    element("div", {}, element("dt", {}, "Space used"),
      element("dd", {}, bytes(space.used), bar(space.used, space.total),
        element("small", {}, `of ${bytes(space.total)}; ${bytes(space.free)} free`))),
    figure("Files", number(counts.files), `${bytes(counts.bytes)} in ${counted(counts.directories, "directory", "directories")}`),
    figure("Chunks", number(counts.chunks), counted(counts.copies, "live copy", "live copies")),
    figure("Lacking copies", number(status.under_goal),
      `${number(status.unavailable)} unreadable; ${counted(status.repairs_running, "repair", "repairs")} running`
      + (status.missing_copies ? `; ${bytes(status.missing_bytes)} to copy` : "")
      + (status.repair_time_left_ms ? `, about ${duration(status.repair_time_left_ms)}` : "")),
    figure("Chunkservers", `${status.servers_up} of ${status.servers_known}`,
      `${status.volumes_in_service} of ${status.volumes_known} volumes`),
    figure("Being written", number(status.unsettled), `${counted(status.deletions_waiting, "deletion", "deletions")} waiting`),
  ];
}

function chunks(rows) {
  if (rows.length === 0) return none("There are no chunks yet.");
  const goals = [...new Set(rows.map((row) => row.goal))].sort((a, b) => a - b);
  const most = Math.max(...rows.map((row) => Math.max(row.live_copies, row.goal)));
  const copies = Array.from({ length: most + 1 }, (_, index) => index);
  const at = (goal, live) => (rows.find((row) => row.goal === goal && row.live_copies === live) || { chunks: 0 }).chunks;
  const kind = (goal, live) => live >= goal ? (live > goal ? "" : "good") : live === 0 ? "bad" : "warn";
  return [
    head(["goal"], ...copies.map((live) =>
      [[String(live), element("span", { class: "wide-only" }, live === 1 ? " copy" : " copies")], "number"])),
    element("tbody", {}, goals.map((goal) => element("tr", {}, element("th", { scope: "row" }, String(goal)),
      copies.map((live) => {
        const count = at(goal, live);
        return cell(count ? number(count) : "–", count ? `number ${kind(goal, live)}` : "number quiet");
      })))),
  ];
}

const byName = (rates) => Object.entries(rates).map(([name, per_second]) => ({ name, per_second }));

function rates(rows) {
  const shown = (rate) => rate.name.startsWith("bytes") ? bytes(rate.per_second)
    : rate.per_second < 10 ? rate.per_second.toFixed(1) : number(rate.per_second);
  return [element("tbody", {}, rows.map((rate) => element("tr", {},
    element("th", { scope: "row" }, rate.name), cell(shown(rate), "number"))))];
}

function operations(rows) {
  return rows.length === 0 ? none("No operations in the last ten seconds.") : rates(rows);
}

function affected({ files, more }) {
  const state = (file) => file.live_copies === 0 ? element("b", { class: "bad" }, "cannot be read")
    : element("b", { class: "warn" }, `${file.live_copies} of ${file.goal} copies`);
  const items = files.map((file) => element("li", {},
    element("strong", {}, file.path || `inode ${file.inode}`), state(file), element("span", {}, file.why)));
  return more ? [...items, element("li", { class: "quiet" }, "and others; rfs status --files N names more")] : items;
}

function metadata(report) {
  const rows = [
    ["state", report.state],
    ["last commit", number(report.position)],
    ["log not yet folded", bytes(report.log_bytes)],
    ["last checkpoint", report.checkpoint_age_ms ? `${duration(report.checkpoint_age_ms)} ago` : "not since the start"],
    ["last export", report.export_age_ms ? `${duration(report.export_age_ms)} ago` : "none yet"],
    ["cached", bytes(report.cached_bytes)],
    ["disk free", bytes(report.disk_free)],
  ];
  return [element("tbody", {}, rows.map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), cell(value, "number"))))];
}

function servers(rows) {
  if (rows.length === 0) return none("No chunkserver has registered yet.");
  const kind = (state) => state === "in service" || state === "drained" ? "good" : state === "away" || state === "out of service" ? "bad" : "warn";
  const body = rows.flatMap((server) => {
    const seen = server.connected ? "connected" : server.last_seen_ms === null ? "away"
      : `away for ${duration(server.last_seen_ms)}`;
    const title = element("tr", { class: "server" },
      element("th", { scope: "row" }, server.host || "?"),
      cell([seen, server.maintenance_left_ms ? `, maintenance for ${duration(server.maintenance_left_ms)}` : "",
        server.draining ? ", draining" : ""].join(""), server.connected ? "good" : server.maintenance_left_ms ? "warn" : "bad"),
      element("td", { colspan: "2" }, server.address),
      cell(`version ${server.version}`, "wide-only"),
      cell("", "wide-only"),
      cell(server.server, "quiet wide-only"));
    const volumes = server.volumes.map((volume) => element("tr", { class: "volume" },
      element("td", { class: "whole-line" }, volume.path),
      element("td", { class: kind(volume.state) }, volume.state, [volume.reason, volume.drain && volume.drain.words].map((why) => why ? element("small", {}, ` ${why}`) : null)),
      element("td", { class: "one-line" }, `${bytes(volume.total - volume.free)} of ${bytes(volume.total)}`,
        bar(volume.total - volume.free, volume.total)),
      cell(counted(volume.chunks, "chunk", "chunks"), "one-line"),
      cell(volume.storage_machine, "wide-only"),
      cell(scrubbed(volume.scrub), volume.scrub.found ? "warn wide-only" : "wide-only"),
      cell(volume.volume, "quiet wide-only")));
    return [title, ...volumes];
  });
  return [head(["server, volume"], ["state"], ["space"], ["holds"], ["storage", "wide-only"], ["scrubbed", "wide-only"], ["id", "wide-only"]),
    element("tbody", {}, body)];
}

// When every chunk had last been read from the disk, how far the present round is, and what was found.
function scrubbed(scrub) {
  const parts = [];
  const completed = new Date(scrub.completed * 1000);
  // A clock that is far off, or a chunkserver that is not one: toISOString throws on what is no date.
  if (scrub.completed > 0) parts.push(Number.isNaN(completed.getTime()) ? "at an impossible time" : completed.toISOString().slice(0, 10));
  if (scrub.done < scrub.chunks) parts.push(`${Math.floor(scrub.done * 100 / scrub.chunks)} %`);
  if (scrub.found > 0) parts.push(`${number(scrub.found)} bad found`);
  return parts.join(", ") || "not yet";
}

function sessions(rows) {
  if (rows.length === 0) return none("Nothing is mounted.");
  return [
    head(["client"], ["mounted at"], ["leases", "number"], ["locks", "number"], ["operations", "number"],
      ["heard", "number"], ["version", "wide-only"]),
    element("tbody", {}, rows.map((session) => element("tr", {},
      element("th", { scope: "row", class: "whole-line" }, session.host, element("small", { class: "quiet" }, ` ${session.address}`)),
      cell(session.mount_point + (session.read_only ? " (read-only)" : ""), "whole-line"),
      cell(session.write_leases ? `${number(session.leases)} (${number(session.write_leases)} for writing)` : number(session.leases), "number", "leases"),
      cell(number(session.locks), "number", "locks"),
      cell(number(session.operations), "number", "operations"),
      cell(`${duration(session.last_heard_ms)} ago`, "number", "heard"),
      cell(session.version, "wide-only")))),
  ];
}

function events(rows) {
  if (rows.length === 0) return [element("li", { class: "quiet" }, "Nothing has happened yet.")];
  const kinds = { warning: "warn", error: "bad" };
  return rows.map((event) => {
    const when = new Date(event.unix_ms);
    return element("li", {},
      element("time", { datetime: when.toISOString() }, when.toLocaleString("sv")),
      element("span", { class: kinds[event.severity] }, event.message));
  });
}

function show(all) {
  const { status } = all;
  const health = byId("health");
  if (health.className !== status.health) health.className = status.health;
  draw("summary", status.summary, (text) => [text]);
  const rest = status.problems.slice(1);
  draw("problems", rest, (problems) => problems.map((problem) => element("li", {}, problem)));
  draw("notes", status.notes, (notes) => notes.map((note) => element("li", {}, note)));
  draw("cluster", [status.cluster, status.version, duration(status.uptime_ms)],
    ([cluster, version, up]) => [`cluster ${cluster}, version ${version}, up ${up}`]);
  const { metadata: meta, rates: rate, operations_by_type: kinds, problems, notes, uptime_ms, ...plain } = status;
  draw("figures", plain, figures);
  draw("chunks", status.chunks, chunks);
  draw("rates", byName(status.rates), rates);
  draw("operations", byName(status.operations_by_type), operations);
  draw("affected", all.affected, affected);
  byId("affected-part").hidden = all.affected.files.length === 0;
  draw("metadata", status.metadata, metadata);
  draw("servers", all.servers, servers);
  draw("sessions", all.sessions, sessions);
  draw("events", all.events, events);
  const title = status.health === "ok" ? "rfs" : `${status.health} – rfs`;
  if (document.title !== title) document.title = title;
}

let answered = null;
function tell(text, lost) {
  const line = byId("answering");
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("lost", lost);
  document.querySelector("main").classList.toggle("stale", lost && answered !== null);
}

async function refresh() {
  const abort = new AbortController();
  const deadline = setTimeout(() => abort.abort(), GIVE_UP_MS);
  try {
    const answer = await fetch("/api/all.json", { signal: abort.signal, cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
    answered = Date.now();
    tell("up to date", false);
  } catch (error) {
    const since = answered === null ? "" : ` since ${new Date(answered).toLocaleTimeString("sv")}; what is shown is from then`;
    tell(`the master does not answer${since}`, true);
  } finally {
    clearTimeout(deadline);
    setTimeout(refresh, EVERY_MS);
  }
}
refresh();
