"use strict";

const PAUSE = 80; // milliseconds without a key before a text is asked about
const box = document.getElementById("text");
const part = (name) => document.getElementById(name);
let offered = "";
let asked = 0;
let timer = 0;

function shade(token) {
  if (token.local_weight === null) {
    return "plain";
  }
  return "route-" + Math.min(6, Math.floor(7 * token.local_weight));
}

function piece(text, kind) {
  const span = document.createElement("span");
  span.textContent = text;
  span.className = kind;
  return span;
}

// The tokens in a text, in their order; what stands between them has no colour.
function coloured(text, tokens, more) {
  const pieces = [];
  let at = 0;
  const lower = text.toLowerCase();
  for (const token of tokens) {
    const begin = lower.indexOf(token.text.toLowerCase(), at);
    if (begin < 0) {
      continue; // an unknown word, which the model reads by another name
    }
    pieces.push(piece(text.slice(at, begin), "plain"), piece(text.slice(begin, begin + token.text.length), shade(token) + more));
    at = begin + token.text.length;
  }
  pieces.push(piece(text.slice(at), "plain"));
  return pieces;
}

function show(text, answer) {
  offered = answer.joined;
  part("whole").replaceChildren(...coloured(text, answer.read, ""), ...coloured(offered, answer.completion, " offered"));
  part("following").replaceChildren(
    ...answer.following.map((token) => {
      const line = document.createElement("li");
      line.append(piece(token.text, shade(token)), piece((100 * token.probability).toFixed(1) + " %", "share"));
      return line;
    }),
  );
}

async function ask() {
  const number = ++asked;
  const text = box.value;
  try {
    const response = await fetch("/answer", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ text }),
    });
    if (number !== asked) {
      return; // a newer text was asked about meanwhile
    }
    if (response.ok) {
      show(text, await response.json());
      part("message").textContent = "";
    } else {
      part("message").textContent = await response.text();
    }
  } catch {
    part("message").textContent = "the server does not answer";
  }
}

box.addEventListener("input", () => {
  offered = "";
  clearTimeout(timer);
  timer = setTimeout(ask, PAUSE);
});

box.addEventListener("keydown", (event) => {
  if (event.key === "Tab" && offered && !event.shiftKey) {
    event.preventDefault();
    box.value += offered;
    offered = "";
    ask();
  }
});

async function begin() {
  const about = await (await fetch("/about")).json();
  part("title").textContent = about.algorithm + " for " + about.client;
  part("private").textContent = about.private;
  part("legend").hidden = !about.routed;
  part("hint").hidden = about.classes;
  part("next").textContent = about.classes ? "Classes" : "What may come next";
  box.maxLength = about.most_characters;
  await ask();
}

begin();
