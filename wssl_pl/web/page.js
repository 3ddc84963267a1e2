/* The page of `wssl export web`: photos go from the picker to the editor and to the worker, and nowhere else. */

import {MaskEditor, save} from "./editor.js";

const get = id => document.getElementById(id);
const query = new URLSearchParams(location.search);   // ?device=wasm&threads=1 to try what another browser would do
const editor = new MaskEditor(get("editor"));
const waiting = new Map();
const NOT_NOW = "The photo was not opened: wait until the work on this one has ended, or cancel it";
let config, worker, ready = null, name = "photo", versions = [], current = 0, busy = false, saved = true, calls = 0;

start().catch(error => complain(error.message));

async function start() {
  complain("");
  if (["WebAssembly", "CompressionStream", "OffscreenCanvas", "Worker"].some(name => !(name in globalThis))) {
    throw new Error("This browser is too old for this page: a current one is needed");
  }
  for (const [id, action] of [["fill", fill], ["undo", () => step("undo", -1)], ["redo", () => step("redo", 1)],
    ["download", download], ["cancel", cancel], ["example", takeExample]]) {
    get(id).addEventListener("click", () => action().catch(error => complain(error.message)));
  }
  get("file").addEventListener("change", () => { take(get("file").files[0]); get("file").value = ""; });
  get("split").addEventListener("input", () => get("compare").style.setProperty("--split", `${get("split").value}%`));
  get("left").addEventListener("change", () => show(get("before"), versions[get("left").value]));
  editor.addEventListener("fill", () => get("fill").click());
  editor.addEventListener("change", update);
  addEventListener("keydown", event => event.key === "Escape" && busy && cancel());
  addEventListener("paste", event => take([...event.clipboardData.files].find(file => file.type.startsWith("image/"))));
  addEventListener("dragover", event => { event.preventDefault(); get("drop").classList.add("over"); });
  addEventListener("dragleave", () => get("drop").classList.remove("over"));
  addEventListener("drop", event => {
    event.preventDefault();
    get("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  addEventListener("beforeunload", event => { if (losable()) event.preventDefault(); });
  launched().catch(error => complain(error.message));
  navigator.serviceWorker?.register("service_worker.js").then(announce).catch(() => {});   // it works online without
}

/** Say that there is a newer version, which starts when no tab shows this one: the files of one belong together. */
function announce(registration) {
  const say = worker => {
    if (worker?.state === "installed" && navigator.serviceWorker.controller) get("newer").hidden = false;
  };
  say(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const {installing} = registration;
    installing.addEventListener("statechange", () => say(installing));
  });
}

async function arriving(file) {
  try {
    return await fetch(file);
  } catch {
    throw new Error("A part of the page did not arrive: check the connection, and try again");
  }
}

/** Start once, and again after it failed. */
function launched() {
  ready ??= launch().catch(error => {
    ready = null;
    throw error;
  });
  return ready;
}

/** Start the worker with the model, by WebGPU where there is one. */
async function launch() {
  worker?.terminate();
  const answer = await arriving("config.json");
  if (!answer.ok) throw new Error("config.json is missing: run `wssl export web` again");
  config = await answer.json();
  worker = new Worker("worker.js", {type: "module"});
  worker.onmessage = ({data}) => {
    if (data.progress) return progress(...data.progress);
    const {resolve, reject} = waiting.get(data.id);
    waiting.delete(data.id);
    if ("error" in data) reject(new Error(data.error));
    else resolve(data.result);
  };
  worker.onerror = event => {
    event.preventDefault();
    const why = event.message ? `: ${event.message}` : "";
    const error = new Error(`The page's worker has ended${why}. Reload the page.`);
    for (const {reject} of waiting.values()) reject(error);
    waiting.clear();
    complain(error.message);
  };
  const cores = navigator.hardwareConcurrency || 1, most = globalThis.crossOriginIsolated ? Math.min(cores, 8) : 1;
  const threads = Math.min(Number(query.get("threads")) || most, most);
  const wanted = config.webgpu && query.get("device") !== "wasm";
  const adapter = wanted && await navigator.gpu?.requestAdapter().catch(() => null);
  const gpu = adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);   // that one is slower
  const runs = await call("start", {config, threads, devices: gpu ? ["webgpu", "wasm"] : ["wasm"]});
  let how = runs.device === "webgpu" ? "WebGPU" : `WebAssembly, ${runs.threads} thread${runs.threads > 1 ? "s" : ""}`;
  if (runs.device === "wasm" && runs.threads === 1 && cores > 1 && !query.has("threads")) {
    how += " (more after the page is loaded again, where the browser allows it)";
  }
  get("about").textContent = `Model: ${config.model}.${config.license ? ` Its weights are ${config.license}.` : ""} ` +
    `Computed on this device by ${how}. Made with wssl ${config.version} and onnxruntime-web ${config.runtime}.`;
  get("about").dataset.device = runs.device;
  get("about").dataset.threads = runs.threads;
  if (runs.reasons.length) console.info(runs.reasons.join("\n"));
}

function call(action, content, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, {resolve, reject});
    worker.postMessage({id: calls, action, ...content}, transfer);
  });
}

async function takeExample() {
  await take({name: "example.png"}, async () => {
    const answer = await arriving("example.png");
    if (!answer.ok) throw new Error("The example cannot be loaded");
    return answer.blob();
  });
}

const losable = () => !saved || !editor.isEmpty;

async function take(file, load = () => file) {
  if (!file) return;
  if (busy) return complain(NOT_NOW);
  if (losable() && !confirm("What is filled or painted is not downloaded yet. Open another photo?")) return;
  await work("Loading ...", async () => {
    const given = await load();
    const blob = new Blob([await given.arrayBuffer()], {type: given.type});   // the file may change
    const {width, height, notes} = await call("open", {blob});
    await editor.open(blob, {width, height});
    await call("accept");
    name = file.name.replace(/\.[^.]*$/, "") || "photo";
    versions = [{blob, label: "the photo"}];
    current = 0;
    saved = true;
    say([`${width} × ${height} pixels.`, ...notes].join(" "));
  });
}

async function fill() {
  if (!versions.length || busy) return;
  await work("Filling ...", async () => {
    const pixels = editor.pixels(), painted = await editor.mask();
    const {png, seconds, count} = await call("fill", {mask: pixels}, [pixels.data.buffer]);
    versions.splice(current + 1);
    current = versions.push({blob: png, mask: painted, label: `fill ${current + 1}`}) - 1;
    saved = false;
    await editor.open(png, {keep: true});
    editor.clear();   // its own undo brings the strokes back
    get("editor").scrollIntoView({block: "nearest"});
    say(`${count.toLocaleString("en")} pixels filled in ${seconds.toFixed(2)} s. Paint on to change more.`);
  }).catch(error => {
    if (error.message !== "cancelled") throw error;
    say("Cancelled: the photo is as it was, and so is the mask.");
  });
}

async function step(action, by) {
  if (busy || !versions[current + by]) return;
  await work("", async () => {
    await call(action);
    const undone = versions[current];
    current += by;
    await editor.open(versions[current].blob, {keep: true});
    if (by < 0) await editor.loadMask(undone.mask);
    else editor.clear();
    say(by < 0 ? "The fill is undone; its mask is back." : "The fill is back.");
  });
}

async function download() {
  save(versions[current].blob, `${name}-filled.png`);
  saved ||= current === versions.length - 1;   // an undone fill is not in it
}

async function cancel() { worker?.postMessage({cancel: true}); }

/** Let nothing else happen while something is done, and show an error of it. */
async function work(text, action) {
  const focused = document.activeElement;
  busy = true;
  complain("");
  say(text);
  update();
  try {
    await launched();
    await action();
  } catch (error) {
    say("");
    if (error.message === "cancelled") throw error;
    complain(error.message);
  } finally {
    busy = false;
    if (get("wrong").textContent === NOT_NOW) complain("");
    progress(0, 0);
    update();
    compare();
    if (document.activeElement === document.body) focused.focus({preventScroll: true});
  }
}

function progress(done, total) {
  get("progress").hidden = get("cancel").hidden = !total;
  get("bar").value = total ? done / total : 0;
  get("percent").textContent = total ? `${Math.round(100 * done / total)} %` : "";
  if (total && done === total) say("Filling: writing the PNG ...");
}

function update() {
  const photo = versions.length > 0;
  get("actions").hidden = !photo;
  get("editor").inert = busy;
  get("editor").hidden = !photo;
  get("fill").disabled = busy;
  get("undo").disabled = busy || current === 0;
  get("redo").disabled = busy || !versions[current + 1];
  get("download").disabled = busy || current === 0;
}

function compare() {
  get("comparison").hidden = current === 0;
  if (current === 0) return;
  get("left").replaceChildren(...versions.slice(0, current).map(({label}, index) => new Option(label, index)));
  show(get("before"), versions[0]);
  show(get("after"), versions[current]);
}

function show(image, {blob}) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
}

function say(text) { get("state").textContent = text; }
function complain(text) { get("wrong").textContent = text; }
