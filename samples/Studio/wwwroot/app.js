// The page of Studio. It uses only the HTTP API that /openapi/v1.json describes.
"use strict";

const $ = (id) => document.getElementById(id);
const numbers = ["frames", "steps", "width", "height", "guidanceScale", "framesPerSecond", "seed"];
const settingNames = ["prompt", "negativePrompt", ...numbers];
const statusNames = { queued: "Waiting", running: "Running", succeeded: "Finished", failed: "Failed", canceled: "Canceled" };
const stageNames = {
  waiting: "Waiting", loading: "Loading the model", encodingText: "Reading the prompt", encodingReferences: "Reading the references",
  denoising: "Drawing", decoding: "Decoding the frames", writing: "Writing the file",
};
const icons = {
  queued: '<svg viewBox="0 0 48 48" aria-hidden="true"><circle cx="24" cy="24" r="17"/><path d="M24 14v10l7 5"/></svg>',
  canceled: '<svg viewBox="0 0 48 48" aria-hidden="true"><circle cx="24" cy="24" r="17"/><path d="M12 36 36 12"/></svg>',
  failed: '<svg viewBox="0 0 48 48" aria-hidden="true"><path d="M24 7 44 41H4Z"/><path d="M24 19v10m0 6v.1"/></svg>',
};

const actionNames = { cancel: "Cancel", repeat: "Edit and repeat", download: "Download", delete: "Delete" };
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

let model = null;
let next = null; // the cursor of the next page of the history
let listing = 0; // the number of the latest listing; answers of older ones are ignored
const cards = new Map(); // id -> { element, job }

// ---- HTTP ----

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw { detail: "The server does not answer. Check the connection and try again.", errors: {} };
  }
  if (response.ok) {
    return response.status === 204 ? null : response.json();
  }
  const problem = await response.json().catch(() => ({}));
  throw { status: response.status, detail: problem.detail || problem.title || `The server answered with status ${response.status}.`, errors: problem.errors || {} };
}

// crypto.randomUUID exists only on secure pages, so not for a phone in the same network.
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

// ---- The form ----

async function loadModel() {
  try {
    model = await call("/api/model");
  } catch (problem) {
    $("model").textContent = "No model";
    showNotice($("model-error"), problem.detail);
    setTimeout(loadModel, 5000);
    return;
  }
  showNotice($("model-error"), null);
  $("model").textContent = `Model: ${model.name}`;
  $("model").title = model.description || "";
  for (const name of ["frames", "steps", "width", "height"]) {
    const range = model[name];
    Object.assign($(name), { min: range.min, max: range.max, step: range.step, placeholder: range.default });
    $(`${name}-hint`).textContent = range.min === range.max ? `${range.min} only`
      : `${range.min} to ${range.max}` + (range.step > 1 ? `, in steps of ${range.step}` : "");
  }
  const ratio = model.width.default / model.height.default;
  document.documentElement.style.setProperty("--ratio", Math.min(16 / 9, Math.max(1, ratio)));
  const fixedSize = model.width.min === model.width.max && model.height.min === model.height.max;
  document.querySelectorAll("[data-size]").forEach((field) => (field.hidden = fixedSize));
  $("guidanceScale").placeholder = model.guidanceScale;
  $("framesPerSecond").placeholder = model.framesPerSecond;
  $("prompt").maxLength = $("negativePrompt").maxLength = model.maxPromptLength;
  $("examples").replaceChildren(...model.examples.map((text) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    button.addEventListener("click", () => {
      $("prompt").value = text;
      $("prompt").focus();
    });
    return button;
  }));
  $("examples").hidden = model.examples.length === 0;
  $("submit").disabled = false;
  summarize();
}

function summarize() {
  const value = (name) => $(name).value || $(name).placeholder;
  const seed = $("seed").value ? `, seed ${$("seed").value}` : "";
  $("summary").textContent = model ? `${value("frames")} frames, ${value("width")}×${value("height")}, ${value("steps")} steps${seed}` : "";
}

function readSettings() {
  const settings = { prompt: $("prompt").value.trim() };
  if ($("negativePrompt").value.trim()) {
    settings.negativePrompt = $("negativePrompt").value.trim();
  }
  for (const name of numbers) {
    if ($(name).value !== "") {
      settings[name] = Number($(name).value);
    }
  }
  // The API takes both or none.
  if ("width" in settings !== "height" in settings) {
    settings.width ??= model.width.default;
    settings.height ??= model.height.default;
  }
  return settings;
}

// Problems that the browser can find without the server, in the same form as the server's.
function findProblems() {
  const errors = {};
  if ($("prompt").value.trim() === "") {
    errors.prompt = ["Describe the video in a few words."];
  }
  for (const name of numbers) {
    const input = $(name);
    if (input.validity.badInput) {
      errors[name] = ["Enter a number."];
    } else if (!input.validity.valid) {
      errors[name] = [input.validationMessage];
    }
  }
  return errors;
}

function showProblems(errors) {
  for (const name of settingNames) {
    $(`${name}-error`).textContent = errors[name]?.join(" ") ?? "";
    if (errors[name]) {
      $(name).setAttribute("aria-invalid", "true");
    } else {
      $(name).removeAttribute("aria-invalid");
    }
  }
  const first = settingNames.find((name) => errors[name]);
  if (first) {
    $("settings").open ||= first !== "prompt";
    $(first).focus();
  }
  return Boolean(first);
}

function showNotice(element, text) {
  element.hidden = !text;
  (element.querySelector("span") ?? element).textContent = text ?? "";
}

let pending = null; // an identifier is kept until the server has answered, so that trying again cannot submit a video twice
$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if ($("submit").disabled) {
    return;
  }
  showNotice($("form-error"), null);
  if (showProblems(findProblems())) {
    return;
  }
  const body = JSON.stringify(readSettings());
  if (pending?.body !== body) {
    pending = { id: newId(), body };
  }
  $("submit").disabled = true;
  try {
    const job = await call(`/api/jobs/${pending.id}`, { method: "PUT", headers: { "Content-Type": "application/json" }, body });
    pending = null;
    clearFilters();
    showJob(job, true);
    cards.get(job.id).element.scrollIntoView({ block: "nearest", behavior: reducedMotion.matches ? "auto" : "smooth" });
    announce(`${job.settings.prompt}: waiting`);
  } catch (problem) {
    if (problem.status) {
      pending = null;
    }
    if (!showProblems(problem.errors)) {
      showNotice($("form-error"), problem.detail);
    }
  } finally {
    $("submit").disabled = false;
  }
});

$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("form").addEventListener("input", summarize);
$("reset").addEventListener("click", () => {
  ["negativePrompt", ...numbers].forEach((name) => ($(name).value = ""));
  showProblems({});
  summarize();
});

function repeat(job) {
  for (const name of settingNames) {
    $(name).value = job.settings[name] ?? "";
  }
  $("seed").value = job.seed;
  $("settings").open = true;
  showProblems({});
  summarize();
  $("form").scrollIntoView({ block: "start" });
  $("prompt").focus();
  $("prompt").select();
}

// ---- The history ----

async function list(append = false) {
  const number = ++listing;
  const query = new URLSearchParams({ limit: 24 });
  if ($("search").value.trim()) {
    query.set("search", $("search").value.trim());
  }
  if ($("status").value) {
    query.set("status", $("status").value);
  }
  if (append && next) {
    query.set("before", next);
  }
  try {
    const page = await call(`/api/jobs?${query}`);
    if (number !== listing) {
      return;
    }
    showNotice($("history-error"), null);
    if (!append) {
      const found = new Set(page.jobs.map((job) => job.id));
      [...cards.keys()].filter((id) => !found.has(id)).forEach(removeCard);
    }
    page.jobs.forEach((job) => showJob(job));
    next = page.next;
    $("more").hidden = !next;
    showEmpty();
  } catch (problem) {
    if (number === listing) {
      showNotice($("history-error"), problem.detail);
    }
  }
}

const isFiltered = () => Boolean($("search").value.trim() || $("status").value);

function clearFilters() {
  if (isFiltered()) {
    $("search").value = $("status").value = "";
    list();
  }
}

function showEmpty() {
  $("empty").hidden = cards.size > 0;
  $("empty").querySelector(".title").textContent = isFiltered() ? "No videos match" : "No videos yet";
  $("empty").querySelector(".hint").textContent = isFiltered() ? "Try other words, or show all videos." : "Describe one, and it appears here.";
}

function removeCard(id) {
  cards.get(id)?.element.remove();
  cards.delete(id);
}

function showJob(job, isNew = false) {
  let card = cards.get(job.id);
  if (!card) {
    const element = $("job-template").content.firstElementChild.cloneNode(true);
    element.classList.toggle("new", isNew);
    card = { element, job: null };
    cards.set(job.id, card);
    const on = (name, action) => element.querySelector(name).addEventListener("click", () => action(card.job));
    on(".cancel", cancel);
    on(".repeat", repeat);
    on(".delete", confirmDelete);
    const after = [...$("jobs").children].find((other) => Number(other.dataset.number) < job.number);
    $("jobs").insertBefore(element, after ?? null);
  }
  const before = card.job;
  if (before && isOlder(job, before)) {
    return; // an answer that an event has overtaken
  }
  card.job = job;
  render(card.element, job, before);
  if (before && before.status !== job.status) {
    announce(`${job.settings.prompt}: ${statusNames[job.status].toLowerCase()}`);
  }
  showEmpty();
}

const isOlder = (job, other) =>
  job.revision < other.revision || (job.revision === other.revision && (job.progress?.fraction ?? 0) < (other.progress?.fraction ?? 0));

function render(element, job, before) {
  const part = (name) => element.querySelector(name);
  const { status, settings, result, progress } = job;
  element.dataset.status = status;
  element.dataset.number = job.number;
  element.dataset.id = job.id;
  part(".prompt").textContent = settings.prompt;
  part(".badge").textContent = job.cancelRequested && status === "running" ? "Canceling" : statusNames[status];
  const created = new Date(job.created);
  part("time").dateTime = job.created;
  part("time").textContent = created.toDateString() === new Date().toDateString()
    ? created.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : created.toLocaleDateString([], { day: "numeric", month: "short" });

  const media = part(".media");
  if (status === "running") {
    if (!media.querySelector(".percent")) {
      media.replaceChildren(
        Object.assign(document.createElement("img"), { className: "preview", alt: "", hidden: true }),
        Object.assign(document.createElement("span"), { className: "percent", ariaHidden: "true" }),
      );
    }
    media.lastChild.textContent = `${Math.round((progress?.fraction ?? 0) * 100)} %`;
    const preview = progress?.previewUrl;
    if (preview && media.firstChild.getAttribute("src") !== preview) {
      media.firstChild.src = preview;
      media.firstChild.hidden = false;
    }
  } else if (before?.status !== status) {
    media.replaceChildren();
    if (job.videoUrl) {
      media.append(createVideo(job));
    } else {
      media.innerHTML = icons[status] ?? "";
    }
  }

  part(".progress").hidden = status !== "running" && status !== "queued";
  part("progress").hidden = status !== "running";
  part("progress").value = progress?.fraction ?? 0;
  part("progress").setAttribute("aria-label", `Progress of ${settings.prompt}`);
  part(".stage").textContent = status === "queued"
    ? (job.queuePosition === 1 ? "Next in the queue" : `Number ${job.queuePosition} in the queue`)
    : describeProgress(progress);

  const message = job.error ?? result?.warnings.join(" ") ?? "";
  part(".message").hidden = message === "";
  part(".message").textContent = message;

  const shown = result ?? settings;
  part(".details").textContent = [
    shown.frames && `${shown.frames} ${shown.frames === 1 ? "frame" : "frames"}`,
    shown.width && `${shown.width}×${shown.height}`,
    shown.steps && `${shown.steps} ${shown.steps === 1 ? "step" : "steps"}`,
    `seed ${job.seed}`,
    result && formatTime(result.seconds),
    settings.negativePrompt && `without “${settings.negativePrompt}”`,
  ].filter(Boolean).join(" · ");

  const isActive = status === "queued" || status === "running";
  part(".cancel").hidden = !isActive;
  part(".cancel").disabled = job.cancelRequested;
  part(".delete").hidden = isActive;
  part(".download").hidden = !job.videoUrl;
  if (job.videoUrl) {
    part(".download").href = `${job.videoUrl}?download=true`;
    part(".download").download = `${settings.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}-${job.seed}.mp4`;
  }
  for (const [name, label] of Object.entries(actionNames)) {
    part(`.${name}`).setAttribute("aria-label", `${label}: ${settings.prompt}`);
  }
}

function createVideo(job) {
  const video = document.createElement("video");
  Object.assign(video, {
    preload: "none", src: job.videoUrl, poster: job.posterUrl, loop: true, muted: true, controls: true, playsInline: true,
    disablePictureInPicture: true, disableRemotePlayback: true,
  });
  video.setAttribute("controlslist", "nodownload noplaybackrate"); // the card has a button that downloads
  video.setAttribute("aria-label", job.settings.prompt);
  video.addEventListener("play", () => delete video.dataset.stopped);
  video.addEventListener("pause", () => {
    if (video.dataset.leaving) {
      delete video.dataset.leaving;
    } else {
      video.dataset.stopped = true;
    }
  });
  if (!reducedMotion.matches) {
    visible.observe(video);
  }
  return video;
}

// Plays the videos that are on the screen, unless the user stopped them.
const visible = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting && !target.paused) {
      target.dataset.leaving = true;
      target.pause();
    } else if (isIntersecting && !target.dataset.stopped) {
      target.play().catch(() => {});
    }
  }
}, { threshold: 0.25 });

function describeProgress(progress) {
  if (!progress) {
    return "Starting";
  }
  const step = progress.stage === "denoising" ? `, step ${progress.step} of ${progress.steps}` : "";
  const time = progress.remainingSeconds > 0.5 ? ` · about ${formatTime(Math.round(progress.remainingSeconds))} left` : "";
  return stageNames[progress.stage] + step + time;
}

function formatTime(seconds) {
  if (seconds < 10) {
    return `${Number.isInteger(seconds) ? seconds : Math.max(0.1, seconds).toFixed(1)} s`;
  }
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

async function cancel(job) {
  try {
    showJob(await call(`/api/jobs/${job.id}/cancel`, { method: "POST" }));
  } catch (problem) {
    showNotice($("history-error"), problem.detail);
  }
}

function confirmDelete(job) {
  const dialog = $("confirm");
  $("confirm-text").textContent = job.settings.prompt;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "delete") {
      return;
    }
    try {
      await call(`/api/jobs/${job.id}`, { method: "DELETE" });
    } catch (problem) {
      if (problem.status !== 404) {
        showNotice($("history-error"), problem.detail);
        return;
      }
    }
    removeCard(job.id);
    showEmpty();
    announce(`${job.settings.prompt}: deleted`);
    $("history").focus();
  }, { once: true });
}

function announce(text) {
  $("announcer").textContent = text;
}

let searching;
$("search").addEventListener("input", () => {
  clearTimeout(searching);
  searching = setTimeout(list, 250);
});
$("status").addEventListener("change", () => list());
$("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  list();
});
$("more").addEventListener("click", () => list(true));
$("retry").addEventListener("click", () => list());

// ---- Events ----

function listen() {
  const events = new EventSource("/api/events");
  events.addEventListener("open", () => {
    $("connection").textContent = "";
    list(); // what changed while there was no connection
  });
  events.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    // A filtered list shows only what the server found for the filter, and the server decides what that is.
    if (cards.has(job.id) || !isFiltered()) {
      showJob(job);
    }
  });
  events.addEventListener("error", () => {
    $("connection").textContent = "The connection is lost. Reconnecting…";
    if (events.readyState === EventSource.CLOSED) { // the browser does not try again after an error status
      setTimeout(listen, 3000);
    }
  });
}

loadModel();
listen();
list();
