"use strict";
// All content is stored text, possibly hostile: it becomes text nodes, never markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE = 200;
const main = document.getElementById("main");
const state = document.getElementById("state");
let key = "";
let navigation = 0;

function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

async function get(route, query) {
  const params = new URLSearchParams(Object.entries(query || {}).filter(([, v]) => v !== "" && v !== undefined));
  if (DATA) return exported(route, params);
  return ask(`${await base()}/${route}?${params}`);
}

async function ask(path) {
  const response = await fetch(path, { headers: { Authorization: `Bearer ${key}` }, cache: "no-store" });
  const body = await response.json();
  if (!response.ok) throw new Error(body.reason || (body.error && body.error.message) || `status ${response.status}`);
  return body;
}

// `personaagent serve` has this page at /traces; a key for one user sees that user's traces alone.
const IN_SERVER = location.pathname === "/traces";
let place = IN_SERVER ? "" : "/view";

async function base() {
  if (!place) {
    const { user_id: user } = await ask("/v1/key");
    place = user === null ? "/v1/traces" : `/v1/users/${encodeURIComponent(user)}/traces`;
  }
  return place;
}

// Answers a route from the data of an exported page.
function exported(route, params) {
  const exact = DATA[`${route}?${params}`];
  if (exact !== undefined) return exact;
  if (!Array.isArray(DATA[route])) throw new Error("The exported file does not include this.");
  const offset = Number(params.get("offset") || 0);
  const rows = DATA[route].filter((row) =>
    (!params.has("user") || row.user_id === params.get("user")) &&
    (!params.has("run") || row.run_id === params.get("run")) &&
    (!params.has("search") || (row.user_id || "").includes(params.get("search"))) &&
    (!params.has("failed") || !["success", "running"].includes(row.status)));
  return rows.slice(offset, offset + PAGE);
}

const STATUS_TEXT = { success: "ok", error: "failed", descendant_error: "failed below", running: "running", interrupted: "interrupted" };
const STATUS_CLASS = { success: "good", error: "bad", descendant_error: "warn", running: "soft", interrupted: "warn" };
const status = (code) => el("span", { class: STATUS_CLASS[code] }, STATUS_TEXT[code] || code);
const when = (text) => (text ? text.slice(0, 19).replace("T", " ") : "");
const count = (n) => (n ? Number(n).toLocaleString("en") : "");
const seconds = (n) => (n === null || n === undefined ? "" : n.toFixed(2));
const money = (line) => (line.tokens && (line.usd || !line.unpriced) ? `$${(line.usd || 0).toFixed(4)}${line.unpriced ? "+" : ""}` : "");
const link = (text, ...path) => el("a", { href: "#/" + path.map(encodeURIComponent).join("/") }, text);

function table(columns, rows) {
  const head = columns.map(([title, , tone]) => el("th", { scope: "col", class: tone }, title));
  const body = rows.map((row) => el("tr", null, columns.map(([, cell, tone]) => el("td", { class: tone }, cell(row)))));
  return el("div", { class: "scroll" }, el("table", null, el("thead", null, el("tr", null, head)), el("tbody", null, body)));
}

async function paged(parent, load, columns, emptyText) {
  let offset = 0;
  const first = await load(0);
  if (!first.length) return parent.append(el("p", { class: "soft" }, emptyText));
  const list = table(columns, first);
  const more = el("button", { type: "button" }, "Show more");
  parent.append(list, more);
  more.hidden = first.length < PAGE;
  more.addEventListener("click", async () => {
    offset += PAGE;
    const rows = await load(offset);
    for (const row of table(columns, rows).querySelectorAll("tbody tr")) list.querySelector("tbody").append(row);
    more.hidden = rows.length < PAGE;
    announce(`${list.querySelectorAll("tbody tr").length} rows`);
  });
}

const TRACE_COLUMNS = [
  ["Trace", (t) => link(t.trace_id.slice(0, 8), "trace", t.trace_id)],
  ["Name", (t) => t.title || t.name],
  ["User", (t) => (t.user_id ? link(t.user_id, "user", t.user_id) : "")],
  ["Run", (t) => t.run_id || ""],
  ["Started (UTC)", (t) => when(t.started)],
  ["Seconds", (t) => seconds(t.seconds), "n"],
  ["Model calls", (t) => count(t.model_calls), "n"],
  ["Tokens", (t) => count(t.tokens), "n"],
  ["Cost", money, "n"],
  ["Status", (t) => status(t.status)],
];

const VIEWS = {
  async users() {
    const list = el("div");
    const box = el("input", { type: "search", id: "search", autocomplete: "off" });
    const fill = async () => {
      list.replaceChildren();
      await paged(list, (offset) => get("users", { search: box.value, offset }), [
        ["User", (u) => (u.user_id ? link(u.user_id, "user", u.user_id) : "(none)")],
        ["Traces", (u) => count(u.traces), "n"],
        ["Failed traces", (u) => el("span", { class: u.failed ? "bad" : "soft" }, String(u.failed)), "n"],
        ["Latest (UTC)", (u) => when(u.latest)],
      ], "There are no traces yet.");
    };
    let wait;
    box.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(fill, 150); });
    const parts = [el("h2", null, "Users"), el("form", { onsubmit: (e) => e.preventDefault() }, el("label", null, "Find user", box)), list];
    await fill();
    return parts;
  },

  async traces() { return traceList("Traces", {}); },
  async failures() { return traceList("Failures", { failed: "1" }); },

  async user(user) {
    const [persona, changes] = await Promise.all([get("persona", { user }), get("personas", { user })]);
    const failedOnly = el("input", { type: "checkbox" });
    const list = el("div");
    const fill = async () => {
      list.replaceChildren();
      const columns = TRACE_COLUMNS.filter(([title]) => title !== "User");
      await paged(list, (offset) => get("traces", { user, failed: failedOnly.checked ? "1" : "", offset }), columns, "No traces match.");
    };
    failedOnly.addEventListener("change", fill);
    await fill();
    return [
      el("h2", null, `User ${user}`),
      persona && currentPersona(persona),
      el("h3", null, "Versions and steps"),
      changes.length ? personaList(user, changes) : el("p", { class: "soft" }, "No persona changes are traced for this user."),
      el("h3", null, "Traces"),
      el("label", { class: "row" }, failedOnly, "Only failed traces"),
      list,
    ];
  },

  async version(user, index) {
    const changes = await get("personas", { user });
    const change = changes[Number(index)];
    if (!change) throw new Error("This persona does not exist.");
    const parent = change.parent === null ? null : changes.find((c) => c.number === change.parent);
    const step = change.detail || {};
    const rollouts = step.simulations || [];
    const decision = step.decision;
    const feedback = new Map((step.feedback || []).map((f) => [f.interaction_id, f]));
    return [
      el("p", null, link(`User ${user}`, "user", user)),
      el("h2", null, `Persona ${change.label}`),
      el("dl", null,
        pair("Source", sourceOf(change)), pair("When (UTC)", when(change.at)),
        pair("Parent", parentOf(change) || "none"),
        step.why && pair("Why", step.why),
        decision && pair("Decision", `${decision.accept ? "accepted" : "rejected"}: ${decision.reason}`),
        decision && numbers(decision) && pair("Numbers", numbers(decision)),
        step.note && pair("Note", step.note),
        pair("Trace", change.trace_id ? link(change.trace_id.slice(0, 8), "trace", change.trace_id, change.call_id) : "not traced")),
      el("h3", null, "Text"), el("pre", null, change.text || "(text not stored)"),
      parent && el("h3", null, `Changes from ${parentOf(change)}`), parent && diff(parent.text, change.text),
      decision && !decision.accept && step.candidate && [el("h3", null, "Rejected rewrite"), el("pre", null, step.candidate)],
      rollouts.length > 0 && [
        el("h3", null, "Rollouts"),
        table([
          ["Interaction", (r) => r.interaction_id],
          ["Query", (r) => r.query, "text"],
          ["User's response", (r) => r.truth, "text"],
          ["Agent's answer", (r) => (r.error ? el("span", { class: "bad" }, r.error) : r.answer), "text"],
          ["Score", (r) => (r.score === null ? "" : r.score.toFixed(2)), "n"],
          ["Feedback", (r) => { const f = feedback.get(r.interaction_id); return f ? f.text || `(none: ${f.skipped})` : ""; }, "text"],
        ], rollouts)],
      el("h3", null, "Compare with another persona"), comparison(changes, change),
    ];
  },

  async trace(id, chosen) {
    const root = await get("trace", { id });
    const detail = el("section", { "aria-label": "Call", "aria-live": "polite" }, el("p", { class: "soft" }, "Select a call to see its inputs and output."));
    const show = async (call) => { detail.replaceChildren(...(await callDetail(call))); };
    const tree = el("div", { class: "tree" }, branch(root, show, 0));
    if (chosen) await show(chosen);
    return [
      el("h2", null, `${root.line.title || root.line.name} `, el("span", { class: "soft" }, id.slice(0, 8))),
      el("p", null, root.line.user_id ? ["User ", link(root.line.user_id, "user", root.line.user_id), ". "] : null,
        `${when(root.line.started)} UTC, ${seconds(root.line.seconds)} s, ${count(root.line.model_calls) || 0} model calls, ${count(root.line.tokens) || 0} tokens. `, status(root.line.status)),
      el("div", { class: "columns" }, el("section", { "aria-label": "Call tree" }, tree), detail),
    ];
  },

  async runs(first, second) {
    const runs = await get("runs", {});
    if (!runs.length) return [el("h2", null, "Runs"), el("p", { class: "soft" }, "There are no runs yet.")];
    const pick = (chosen, label) => {
      const box = el("select", null, runs.map((r) => el("option", { value: r.run_id, selected: r.run_id === chosen }, r.run_id)));
      return [box, el("label", null, label, box)];
    };
    const [left, leftLabel] = pick(first || runs[0].run_id, "First run");
    const [right, rightLabel] = pick(second || (runs[1] || runs[0]).run_id, "Second run");
    const go = (event) => { event.preventDefault(); location.hash = "#/runs/" + [left.value, right.value].map(encodeURIComponent).join("/"); };
    return [
      el("h2", null, "Runs"),
      table([
        ["Run", (r) => r.run_id], ["Traces", (r) => count(r.traces), "n"], ["Users", (r) => count(r.users), "n"],
        ["Failed traces", (r) => String(r.failed), "n"], ["Model calls", (r) => count(r.model_calls), "n"],
        ["Tokens", (r) => count(r.tokens), "n"], ["Started (UTC)", (r) => when(r.started)], ["Ended (UTC)", (r) => when(r.ended)],
      ], runs),
      el("form", { onsubmit: go }, leftLabel, rightLabel, el("button", null, "Compare")),
      first && second && (await compareRuns(first, second)),
    ];
  },
};

async function traceList(title, query) {
  const list = el("div");
  const box = el("input", { type: "search", autocomplete: "off" });
  const fill = async () => {
    list.replaceChildren();
    await paged(list, (offset) => get("traces", { ...query, search: box.value, offset }), TRACE_COLUMNS, "No traces match.");
  };
  const find = (event) => { event.preventDefault(); fill(); };
  await fill();
  // An exported page has no questions to search in.
  const form = DATA ? null : el("form", { onsubmit: find }, el("label", null, "Find a question", box), el("button", null, "Find"));
  return [el("h2", null, title), form, list];
}

const verdict = (d) => `${d.outcome || (d.accept ? "accepted" : "rejected")}: ${d.reason}`;
const numbers = (d) => Object.entries(d.numbers || {}).map(([name, n]) => `${name} ${Number(n.toPrecision(3))}`).join(", ");
const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

function currentPersona(p) {
  const how = `${p.source} of ${when(p.created_at)} UTC, ${p.why}`;
  const lines = p.lines === null
    ? [el("p", { class: "soft" }, "It was written freely: nothing is known of what each line rests on."), feedbackList(p.feedback)]
    : p.lines.length ? p.lines.map(personaLine) : el("p", { class: "soft" }, "It says nothing about the user: no fact or line has been added.");
  return [
    el("h3", null, `The persona now: v${p.version}${p.outcome ? `, ${p.outcome}` : ""}${p.pinned ? ", pinned" : ""}`),
    el("p", { class: "soft" }, how), p.review && el("p", null, `Later interactions: ${verdict(p.review)}`),
    lines, el("details", null, el("summary", null, "The whole text"), el("pre", null, p.text))];
}

function personaLine(row) {
  const items = row.evidence.map((item) => el("li", null, item.query === undefined ? `${item.id}: forgotten` : [`${item.query} `, el("span", { class: "soft" }, "→ "), el("strong", null, item.response)]));
  const more = row.interaction_ids.length - items.length;
  return el("details", { class: "why", open: true },
    el("summary", null, row.text, " ", el("span", { class: "soft" }, `(${row.origin}; ${plural(row.interaction_ids.length, "interaction")})`)),
    feedbackList(row.feedback),
    items.length ? [el("p", { class: "soft" }, "Rests on"), el("ul", null, items, more > 0 && el("li", { class: "soft" }, `and ${more} older`))] : null,
    row.decision && el("p", null, el("span", { class: "soft" }, `Decided in v${row.since}: `), verdict(row.decision), el("span", { class: "soft" }, numbers(row.decision) && ` (${numbers(row.decision)})`)));
}

function feedbackList(feedback) {
  return feedback.length ? [el("p", { class: "soft" }, "Feedback"), el("ul", null, feedback.map((f) => el("li", null, f.text)))] : null;
}

const SOURCES = { start: "first traced persona", step: "alignment step", alignment: "saved alignment" };
const parentOf = (change) => (change.parent === null ? "" : `${change.label.startsWith("#") ? "#" : "v"}${change.parent}`);
const sourceOf = (change) => SOURCES[change.source] || change.source;

function pair(name, value) { return [el("dt", null, name), el("dd", null, value)]; }

function personaList(user, changes) {
  return el("ol", { class: "line" }, changes.map((change, index) => {
    const decision = change.detail.decision;
    const scores = (change.detail.simulations || []).map((s) => s.score).filter((s) => s !== null);
    const mean = scores.length ? `, mean score before the step ${(scores.reduce((a, b) => a + b, 0) / scores.length).toFixed(2)} (n=${scores.length})` : "";
    return el("li", { class: change.changed ? "changed" : null },
      el("p", null, link(`Persona ${change.label}`, "version", user, String(index)), ` ${change.parent === null ? "" : `from ${parentOf(change)} `}(${sourceOf(change)}), ${when(change.at)} UTC`),
      decision && el("p", null, el("span", { class: decision.accept ? "good" : "warn" }, decision.accept ? "accepted" : "rejected"), `: ${decision.reason}${mean}`),
      !decision && change.detail.why && el("p", null, change.detail.why),
      el("p", { class: "soft" }, (change.text || "").slice(0, 180) + ((change.text || "").length > 180 ? "…" : "")));
  }));
}

function comparison(changes, change) {
  const out = el("div");
  const box = el("select", { id: "other" }, changes.map((c, i) => el("option", { value: i }, `${c.label} (${sourceOf(c)}, ${when(c.at)})`)));
  const go = (event) => { event.preventDefault(); out.replaceChildren(diff(changes[Number(box.value)].text, change.text)); };
  return el("div", null, el("form", { onsubmit: go }, el("label", null, "Other persona", box), el("button", null, "Show difference")), out);
}

function diff(before, after) {
  const a = (before || "").split("\n"), b = (after || "").split("\n");
  if (before === after) return el("p", { class: "soft" }, "The texts are equal.");
  // Longest common subsequence of lines; personas are short.
  const best = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  const out = el("pre", { class: "diff" });
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { out.append(el("span", null, "  " + a[i])); i++; j++; }
    else if (i < a.length && (j === b.length || best[i + 1][j] >= best[i][j + 1])) out.append(el("del", null, "- " + a[i++]));
    else out.append(el("ins", null, "+ " + b[j++]));
  }
  return out;
}

const CHILDREN_PER_PAGE = 60;

function branch(node, show, depth) {
  const line = node.line;
  const name = line.title && !line.title.startsWith(line.name) ? `${line.name} ${line.title}` : line.title || line.name;
  const facts = [line.seconds === null ? "" : `${seconds(line.seconds)} s`, line.tokens ? `${count(line.tokens)} tokens` : "", money(line)].filter(Boolean).join(", ");
  const label = [
    el("button", { type: "button", onclick: (event) => { event.preventDefault(); show(line.id); } }, name), " ",
    el("span", { class: "soft" }, facts), " ", line.status === "success" ? null : status(line.status),
    node.decision ? el("span", { class: node.decision.accept ? "good" : "warn" }, ` ${node.decision.accept ? "accepted" : "rejected"}: ${node.decision.reason}`) : null];
  if (!node.children.length) return el("div", { class: "leaf" }, label);
  const box = el("details", { open: depth < 3 }, el("summary", null, label));
  // Children are added when the node is first opened: a trace can have thousands.
  const fill = (from) => {
    node.children.slice(from, from + CHILDREN_PER_PAGE).forEach((child) => box.append(branch(child, show, depth + 1)));
    if (from + CHILDREN_PER_PAGE < node.children.length) {
      const more = el("button", { type: "button", onclick: () => { more.remove(); fill(from + CHILDREN_PER_PAGE); } }, `Show ${node.children.length - from - CHILDREN_PER_PAGE} more`);
      box.append(more);
    }
  };
  if (box.open) fill(0);
  else box.addEventListener("toggle", () => fill(0), { once: true });
  return box;
}

async function callDetail(id) {
  const call = await get("call", { id });
  const show = (title, value) => {
    const empty = value === null || value === undefined || (typeof value === "object" && !Object.keys(value).length);
    return empty ? null : [el("h3", null, title), el("pre", null, typeof value === "string" ? value : readable(value))];
  };
  const error = call.exception ? JSON.parse(call.exception) : null;
  return [
    el("h2", null, call.display_name || call.summary.weave.trace_name.replace("personaagent.", "")),
    el("p", null, `${when(call.started_at)} UTC `, status(call.summary.weave.status)),
    error && [el("h3", { class: "bad" }, error.type), el("pre", null, `${error.message}\n${error.traceback || ""}`.trim())],
    messages(call.inputs.messages) || null,
    show("Inputs", call.inputs.messages ? { ...call.inputs, messages: undefined } : call.inputs),
    show("Output", call.output), show("Attributes", call.attributes), show("Usage", { usage: call.summary.usage, cost: call.summary.cost }),
  ].flat(Infinity).filter(Boolean);
}

function messages(list) {
  if (!Array.isArray(list)) return null;
  return list.map((m) => [el("h3", null, String(m.role || "message")), el("pre", null, typeof m.content === "string" ? m.content : readable(m))]);
}

// Like YAML: texts keep their line breaks, so that prompts are readable.
function readable(value, pad = "") {
  if (typeof value === "string") return value.includes("\n") ? value.split("\n").map((line) => `\n${pad}${line}`).join("") : value;
  if (value === null || typeof value !== "object") return String(value);
  const list = Array.isArray(value);
  const parts = Object.entries(value).filter(([, item]) => item !== undefined).map(([name, item]) => {
    const deep = item !== null && typeof item === "object" && Object.keys(item).length;
    return `${pad}${list ? "-" : `${name}:`}${deep ? "\n" : " "}${readable(item, pad + "  ")}`;
  });
  return parts.length ? parts.join("\n") : list ? "[]" : "{}";
}

async function compareRuns(first, second) {
  const load = async (run) => {
    const all = [];
    for (let offset = 0; offset < 5000; offset += PAGE) {
      const part = await get("traces", { run, offset });
      all.push(...part);
      if (part.length < PAGE) break;
    }
    return all;
  };
  const [a, b] = [await load(first), await load(second)];
  const rowKey = (t) => `${t.user_id || ""}\u0000${t.name}`;
  const rows = new Map();
  for (const [side, list] of [["a", a], ["b", b]]) for (const t of list) {
    const row = rows.get(rowKey(t)) || { user: t.user_id, name: t.name };
    const sum = row[side] || { traces: 0, seconds: 0, tokens: 0, failed: 0, last: t };
    sum.traces++; sum.seconds += t.seconds || 0; sum.tokens += t.tokens; sum.failed += ["success", "running"].includes(t.status) ? 0 : 1;
    row[side] = sum; rows.set(rowKey(t), row);
  }
  const cell = (side, field, digits) => (r) => (r[side] ? (digits ? r[side][field].toFixed(digits) : count(r[side][field]) || "0") : "–");
  const open = (side) => (r) => (r[side] ? link(r[side].last.trace_id.slice(0, 8), "trace", r[side].last.trace_id) : "–");
  return [
    el("h3", null, `${first} and ${second}, by user`),
    table([
      ["User", (r) => (r.user ? link(r.user, "user", r.user) : "")], ["Name", (r) => r.name],
      ["First: trace", open("a")], ["seconds", cell("a", "seconds", 2), "n"], ["tokens", cell("a", "tokens"), "n"], ["failed", cell("a", "failed"), "n"],
      ["Second: trace", open("b")], ["seconds", cell("b", "seconds", 2), "n"], ["tokens", cell("b", "tokens"), "n"], ["failed", cell("b", "failed"), "n"],
    ], [...rows.values()].slice(0, 2000)),
  ];
}

function announce(text) { state.textContent = text; }

async function route() {
  const turn = ++navigation;
  if (location.hash.startsWith("#key=")) {
    key = decodeURIComponent(location.hash.slice(5));
    sessionStorage.setItem("key", key);
    history.replaceState(null, "", "#/users");
  }
  if (!location.hash.startsWith("#/") && location.hash && location.hash !== "#") return;
  const [view, ...rest] = location.hash.slice(2).split("/").map(decodeURIComponent);
  if (!view && DATA && DATA.users.length === 1 && DATA.users[0].user_id) {
    location.replace(`#/user/${encodeURIComponent(DATA.users[0].user_id)}`);
    return;
  }
  const make = VIEWS[view || "users"];
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash === `#/${view || "users"}`) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
  }
  announce("Loading…");
  try {
    const parts = make ? await make(...rest) : [el("p", null, "This page does not exist.")];
    if (turn !== navigation) return;
    main.replaceChildren(...parts.flat(Infinity).filter(Boolean));
    announce(DATA ? "Exported file" : "");
  } catch (error) {
    if (turn !== navigation) return;
    main.replaceChildren(el("h2", null, "Cannot show this page"), el("p", { class: "bad" }, error.message));
    announce("");
  }
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
}

try { key = sessionStorage.getItem(IN_SERVER ? "personaagent-key" : "key") || ""; } catch { key = ""; }
if (IN_SERVER) document.querySelector("nav").prepend(el("a", { href: "/" }, "Personas"));
window.addEventListener("hashchange", route);
route();
