(() => {
"use strict";
// Follows the stream of changes and swaps what differs in the page. Elements that are the same stay the same elements, so
// focus, scroll and what a person opened stay; a list row is known by its first link, so that new rows push the others down.
const body = document.body, box = document.getElementById("live"), button = box.querySelector("button");
const words = box.querySelector("[role=status]"), still = matchMedia("(prefers-reduced-motion: reduce)");
let paused = sessionStorage.getItem("paused") === "yes", source = null, seen = body.dataset.state, due = 0, rest = 2000;

const say = (text, kind) => { if (words.textContent !== text) words.textContent = text; box.dataset.is = kind; };
const key = node => {
    if (node.nodeType !== 1) return node.nodeName;
    const of = node.nodeName === "TR" || node.nodeName === "LI" ? node.querySelector("a, th") : null;
    return `${node.nodeName} ${node.id} ${of ? of.getAttribute("href") || of.textContent : ""}`;
};

function flash(node) {
    const at = node.parentElement;
    if (!still.matches && at && at.animate) at.animate([{opacity: .35}, {opacity: 1}], 500);
}

function morph(old, now) {
    if (old.isEqualNode(now)) return;
    if (old.nodeType !== 1) { if (old.data !== now.data) { old.data = now.data; flash(old); } return; }
    const kept = old.nodeName === "DETAILS" ? ["open"] : [];  // a person opened or closed it
    for (const {name} of [...old.attributes]) if (!now.hasAttribute(name) && !kept.includes(name)) old.removeAttribute(name);
    for (const {name, value} of now.attributes)
        if (old.getAttribute(name) !== value && !kept.includes(name)) old.setAttribute(name, value);
    const wanted = [...now.childNodes], names = new Set(wanted.map(key));
    for (const each of [...old.childNodes]) if (!names.has(key(each))) each.remove();
    let at = old.firstChild;
    for (const each of wanted) {
        const name = key(each);
        let found = at;
        while (found && key(found) !== name) found = found.nextSibling;
        if (!found) { old.insertBefore(document.importNode(each, true), at); continue; }
        if (found !== at) old.insertBefore(found, at); else at = at.nextSibling;
        morph(found, each);
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

function swap(now) {
    const chosen = getSelection(), ends = [chosen.anchorNode, chosen.anchorOffset, chosen.focusNode, chosen.focusOffset];
    const had = document.activeElement, href = had && had.getAttribute("href");
    for (const part of ["main", "footer"]) morph(document.querySelector(part), now.querySelector(part));
    document.title = now.title;
    if (ends[0] && !(ends[0] === ends[2] && ends[1] === ends[3]) && ends[0].isConnected && ends[2].isConnected) {
        const most = node => node.nodeType === 1 ? node.childNodes.length : node.data.length;
        chosen.setBaseAndExtent(ends[0], Math.min(ends[1], most(ends[0])), ends[2], Math.min(ends[3], most(ends[2])));
    }
    if (had && had !== body && document.activeElement !== had)  // it moved, or it is no longer there
        (had.isConnected ? had : document.querySelector(href ? `main a[href="${CSS.escape(href)}"]` : "main") || body).focus();
}

async function update() {
    due = 0;
    const began = performance.now();
    try {
        const answer = await fetch(location.href, {headers: {accept: "text/html"}});
        if (!answer.ok) throw new Error(answer.status);
        const now = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (paused) return;
        seen = now.body.dataset.state;
        swap(now);
        rest = Math.max(2000, 20 * (performance.now() - began));  // a page that takes long is asked for less often
        say("Live", "live");
    } catch { say("The page cannot be had: reload it later", "off"); }
}

function told(event) { if (event.data !== seen && !due) due = setTimeout(update, source.fresh ? 0 : rest); source.fresh = false; }

function follow() {
    const wanted = !paused && !document.hidden;  // a browser has six connections to a server: a hidden page takes none
    if (source && !wanted) { source.close(); source = null; clearTimeout(due); due = 0; }
    if (wanted && !source) {
        source = new EventSource(body.dataset.changes);
        source.fresh = true;
        source.onopen = () => say("Live", "live");
        source.onmessage = told;
        source.onerror = () => {
            const refused = source.readyState === EventSource.CLOSED;
            say(refused ? "Not live: reload to see what is new" : "Waiting for the server", "off");
            if (refused) source = null;
        };
    }
    if (paused) say("Paused", "paused");
    button.textContent = paused ? "Go on" : "Pause";
}

button.addEventListener("click", () => { paused = !paused; sessionStorage.setItem("paused", paused ? "yes" : "no"); follow(); });
document.addEventListener("visibilitychange", follow);
document.addEventListener("keydown", event => {  // Escape closes what was opened around the focus
    const open = event.key === "Escape" && event.target.closest("details[open]");
    if (open) { open.open = false; open.querySelector("summary").focus(); }
});
box.hidden = false;
follow();
})();
