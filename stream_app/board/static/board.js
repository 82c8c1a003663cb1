// What JavaScript adds: local times, an age that counts, and a refresh that can be paused and takes nothing away.
"use strict";
(() => {
  const STORED = "stream-app-board-paused";
  const short = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const exact = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat("sv-SE");
  let loaded = performance.now();

  function localTimes(root) {
    const today = day.format(new Date());
    for (const each of root.querySelectorAll("time[datetime]")) {
      const at = new Date(each.dateTime);
      each.title = at.toISOString();
      if ("ago" in each.dataset) continue;
      if ("axis" in each.dataset) {
        each.textContent = each.dataset.axis === "date" ? day.format(at).slice(5) : short.format(at);
        continue;
      }
      const clock = "secondsToo" in each.dataset ? exact : short;
      const date = day.format(at);
      each.textContent = (date === today ? "" : date + " ") + clock.format(at);
    }
    for (const each of document.querySelectorAll("[data-zone]")) {
      each.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
    }
  }

  function grow() {
    const age = document.getElementById("age");
    const shown = age && age.querySelector("[data-seconds]");
    if (!shown) return;
    const seconds = Math.floor((Number(age.dataset.age) + performance.now() - loaded) / 1000);
    shown.textContent = seconds < 120 ? `${seconds} s` : `${Math.floor(seconds / 60)} min`;
    if (seconds > 30) age.classList.add("stale");
  }

  function isBusy(main) {
    const focused = document.activeElement;
    const types = main.contains(focused) && focused.matches("input, textarea, select");
    const filled = [...main.querySelectorAll("input:not([type=hidden])")].some((each) => each.value !== each.defaultValue);
    const selected = !document.getSelection().isCollapsed;
    return types || filled || selected || main.querySelector("details[open], dialog[open], .u-over:hover") !== null;
  }

  const isPaused = () => localStorage.getItem(STORED) === "yes";
  const pause = document.getElementById("pause");
  if (pause) {
    const show = () => {
      pause.setAttribute("aria-pressed", String(isPaused()));
      pause.textContent = isPaused() ? "Paused" : "Pause";
    };
    pause.hidden = false;
    show();
    pause.addEventListener("click", () => {
      localStorage.setItem(STORED, isPaused() ? "no" : "yes");
      show();
    });
  }

  // A second click does nothing. The server would apply the command once, too.
  for (const form of document.querySelectorAll("form[data-once]")) {
    form.addEventListener("submit", () => {
      for (const each of form.querySelectorAll("button")) each.disabled = true;
      form.setAttribute("aria-busy", "true");
    });
  }
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const each of document.querySelectorAll("form[data-once] button")) each.disabled = false;
  });

  const upload = document.querySelector("form.upload");
  if (upload) {
    const file = upload.querySelector("input[type=file]");
    const problem = document.getElementById("problem");
    const check = () => {
      const most = Number(upload.dataset.mostMb);
      const large = file.files.length > 0 && file.files[0].size > most * 2 ** 20;
      const says = large ? `The file has more than ${most} MB: split it, or publish it with stream-app publish` : "";
      problem.hidden = !large;
      problem.textContent = says;
      file.setCustomValidity(says);
    };
    file.addEventListener("change", check);
    for (const kind of ["dragover", "dragleave", "drop"]) {
      upload.addEventListener(kind, (event) => {
        event.preventDefault();
        upload.classList.toggle("over", kind === "dragover");
        if (kind !== "drop" || !event.dataTransfer.files.length) return;
        file.files = event.dataTransfer.files;
        check();
      });
    }
  }

  document.addEventListener("htmx:before:request", (event) => {
    const main = document.getElementById("content");
    const follows = event.target.id === "follow";
    if ((event.target === main || follows) && (isPaused() || document.hidden || isBusy(main))) event.preventDefault();
  });
  document.addEventListener("htmx:after:swap", () => {
    loaded = performance.now();
    localTimes(document);
    grow();
    window.drawCharts?.();
  });
  document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  localTimes(document);
  grow();
  setInterval(grow, 1000);
})();
