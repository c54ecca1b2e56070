"use strict";
// Sorts and filters the table of channels. What is asked for stands behind the # of the address, #sort=cosine&filter=dog,
// so that it survives a visit to a channel's page, and can be kept as a bookmark.
(() => {
  const body = document.querySelector(".channels tbody");
  const rows = new Map(CHANNELS.map((one) => [one.channel, document.getElementById(`row-${one.channel}`)]));
  const [filter, sort, turn, found] = ["filter", "sort", "turn", "found"].map((id) => document.getElementById(id));
  const heads = document.querySelectorAll("[data-sort]");
  const downwards = new Set(["share", "before", "after", "gain", "groups"]); // largest first

  function show() {
    const key = sort.value;
    const turned = turn.getAttribute("aria-pressed") === "true";
    const sign = downwards.has(key) === turned ? 1 : -1;
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const order = [...CHANNELS].sort((a, b) => {
      if (a[key] === b[key]) return a.best - b.best;
      if (a[key] === null || b[key] === null) return a[key] === null ? 1 : -1; // what was not measured comes last
      return sign * (a[key] - b[key]);
    });
    let count = 0;
    for (const one of order) {
      const row = rows.get(one.channel);
      row.hidden = !words.every((word) => one.text.includes(word));
      count += row.hidden ? 0 : 1;
      body.append(row);
    }
    found.textContent = words.length ? `${count} of ${CHANNELS.length} channels` : `${count} channels`;
    document.getElementById("nothing").hidden = count > 0;
    for (const head of heads) {
      head.removeAttribute("aria-sort");
      if (head.dataset.sort === key) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    }
  }

  function read() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (!asked.has("sort") && !asked.has("filter")) return;
    filter.value = asked.get("filter") ?? "";
    if ([...sort.options].some((one) => one.value === asked.get("sort"))) sort.value = asked.get("sort");
    turn.setAttribute("aria-pressed", asked.get("turn") === "1");
    show();
  }

  function write() {
    const asked = new URLSearchParams({ sort: sort.value, filter: filter.value });
    if (turn.getAttribute("aria-pressed") === "true") asked.set("turn", "1");
    location.replace(`#${asked}`);
    show();
  }

  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const again = sort.value === head.dataset.sort;
      turn.setAttribute("aria-pressed", again && turn.getAttribute("aria-pressed") === "false");
      sort.value = head.dataset.sort;
      write();
    });
  }
  turn.addEventListener("click", () => {
    turn.setAttribute("aria-pressed", turn.getAttribute("aria-pressed") === "false");
    write();
  });
  filter.addEventListener("input", write);
  sort.addEventListener("change", write);
  filter.form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", read);
  read();
})();
