/* What the photo's tab does in the browser: a photo is loaded and painted on, and its mask sent when it is filled. */
import {MaskEditor} from "./editor.js";

const UPLOAD = new URL("gradio_api/upload", document.baseURI), ALIVE = new URL("gradio_api/app_id", document.baseURI);
const RENEW = new URL("page/renew", document.baseURI), RENEW_MS = 600_000;   // files are deleted after an hour
const click = id => document.getElementById(id)?.click();
const LOADING = "Loading the photo …", FILLING = "Filling …", WORKING = "Working …", LOOKING = "Looking …";
const STOPPING = "Stopping …", AWAY = "The connection broke off: waiting for it …";
const NOT_NOW = "The photo was not opened: wait until the work on this one has ended";
const wait = ms => new Promise(resolve => setTimeout(resolve, ms));

class NotArrived extends Error {}

async function fetched(url) {
  try {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return await answer.blob();
  } catch (error) {
    throw error instanceof TypeError ? new NotArrived("it did not arrive") : error;
  }
}

/** Scroll to an element that is not wholly visible. */
function bring(element) {
  const {top, bottom, height} = element.getBoundingClientRect();
  if (top >= 0 && bottom <= window.innerHeight) return;
  element.scrollIntoView({block: height < window.innerHeight ? "center" : "start"});
}

/** The key of the photo that this tab has shown, also before a reload. */
function stored() {
  try {
    return sessionStorage.getItem("wssl") ?? "";
  } catch {
    return "";   // the browser stores nothing
  }
}

const megabytes = bytes => `${(bytes / 1e6).toFixed(1)} MB`;

/** Return why a file is too large, or nothing. */
function tooLarge({name, size}, limit) {
  if (size <= limit) return "";
  return `${name} has ${megabytes(size)}, and at most ${limit / 1e6} MB are taken: save it smaller, as JPEG for example`;
}

/** Of the files that were chosen or dropped for a batch, keep from Gradio those that the server would refuse; say so. */
function sift(event, limit) {
  const input = event.target.closest?.("#batch-photos, #batch-masks")?.querySelector("input[type=file]");
  const files = [...(event.dataTransfer ?? event.target).files ?? []], taken = new DataTransfer(), wrong = [];
  if (!input || !files.length) return;
  const note = document.querySelector("#batch-note p"), later = [];
  let sum = 0;
  for (const file of files) {
    const why = tooLarge(file, limit);
    if (why) wrong.push(why);
    else if (sum + file.size > limit) later.push(file.name);
    else {
      sum += file.size;
      taken.items.add(file);
    }
  }
  if (later.length) {
    const others = later.length > 1 ? ` and ${later.length - 1} more` : "";
    wrong.push(`${later[0]}${others} did not fit, as at most ${limit / 1e6} MB are taken at once: `
      + "add the rest with the arrow above the list");
  }
  note.textContent = wrong.join(". ");
  if (!wrong.length) return;
  event.preventDefault();
  event.stopPropagation();
  if (!taken.files.length) return;
  input.files = taken.files;
  input.dispatchEvent(new Event("change", {bubbles: true}));   // comes back here, where all are taken
  note.textContent = wrong.join(". ");
}

/** Start the tab; `element`, `trigger`, `props` and `watch` are those of Gradio's HTML component, `again` triggers too. */
export function start({element, trigger, props, watch, again, limit}) {
  const editor = new MaskEditor(element.querySelector(".photo-mask"));
  const note = element.querySelector(".photo-note"), input = element.querySelector("input[type=file]");
  const veil = element.querySelector(".photo-busy"), tab = element.closest("[role=tabpanel]");
  const stop = veil.querySelector("button");
  let arrived = null, doing = "", unsaved = false, focused = null, showing = null, shown = "";
  let presses = 0, actions = 0, basis = "", unsent = "", isAway = false, finds = 0;
  let isBatch = false, zipUnsaved = false;

  async function send(file, name = file.name) {
    const why = tooLarge({name, size: file.size}, limit);
    if (why) throw new Error(why);
    const form = new FormData();
    form.append("files", file, file.name);
    let answer;
    try {
      answer = await fetch(UPLOAD, {method: "POST", body: form});
    } catch {
      throw new Error(`${name} did not arrive: the connection broke off. Try again`);
    }
    if (!answer.ok) throw new Error(`${name} was not taken: ${(await answer.text()).slice(0, 200)}`);
    const [path] = await answer.json();
    return {path, orig_name: file.name, size: file.size, meta: {_type: "gradio.FileData"}};
  }

  /** Meanwhile nothing of the tab can be used but Stop; what had the focus gets it again. */
  function busy(what = "", stoppable = false) {
    if (what || note.textContent.startsWith(NOT_NOW)) note.textContent = "";
    if (what && !doing) focused = document.activeElement;
    doing = what;
    veil.querySelector("span").textContent = what;
    veil.hidden = !what;
    for (let kept = stop; kept !== tab; kept = kept.parentElement) {
      for (const other of kept.parentElement.children) if (other !== kept) other.inert = Boolean(what);
    }
    const free = [document.body, stop].includes(document.activeElement);
    stop.hidden = !stoppable;
    if (!what && free) focused?.focus({preventScroll: true});
    if (!what && window.wsslIsLost) findAgain();
  }

  const losable = () => unsaved || !editor.isEmpty;
  const batch = name => document.getElementById(`batch-${name}`);
  const isBatchLosable = () => isBatch || (zipUnsaved && !batch("download").disabled);
  const mayLeave = () => !losable() || confirm("What is filled or painted is not downloaded yet. Open another photo?");

  async function load(file) {
    if (doing) {
      note.textContent = NOT_NOW + (stop.hidden ? "" : ", or stop it");
      return;
    }
    if (!mayLeave()) return;
    busy(LOADING);
    try {
      arrived = await send(file);
      trigger("upload");   // ends in done()
    } catch (error) {
      busy();
      note.textContent = error.message;
    }
  }

  /** Show the version that the page's value names, however often its files do not arrive, until it names another. */
  async function show() {
    const {photo, mask, width, height, first, key} = props.value ?? {};
    if (!photo || photo.path === shown) return;   // strokes are not touched
    unsaved = !first && (unsaved || !shown);   // after a reload
    try {
      sessionStorage.setItem("wssl", key);   // with which a reload finds it again
    } catch {}   // the browser stores nothing
    const isBusy = Boolean(doing);
    while (props.value?.photo?.path === photo.path) {
      note.textContent = "";
      try {
        const [image, strokes] = [await fetched(photo.url), mask && await fetched(mask.url)];
        await editor.open(image, {width, height, keep: !first});
        shown = photo.path;
        if (!first) editor.clear();   // its own undo brings the strokes back
        if (strokes) await editor.loadMask(strokes);
        break;
      } catch (error) {
        if (!isBusy) busy(LOADING);   // what would be painted now was for this version
        note.textContent = `The photo cannot be shown: ${error.message}`;
        if (!(error instanceof NotArrived)) break;
        note.textContent += ". Trying again …";
        await wait(2000);
      }
    }
    if (!isBusy && doing === LOADING) busy();
  }

  /** After a call broke off: wait for the server, and show what has become of the photo there. */
  async function findAgain() {
    if (isAway) return;
    busy(AWAY);
    isAway = true;
    basis = shown;
    if (finds++) await wait(2000);
    while (!await fetch(ALIVE).then(({ok}) => ok, () => false)) await wait(2000);
    window.wsslIsLost = false;
    again();   // ends in found()
  }

  window.wsslPage = {
    taken() {
      const file = arrived;
      arrived = null;
      return file;
    },
    /** Return the painted mask, or null, the version that it was painted on, and the number of this press. */
    async takeMask() {
      presses += 1;
      basis = shown;
      if (editor.isEmpty) return [null, shown, presses];
      busy(FILLING);
      try {
        const mask = await send(new File([await editor.mask()], "mask.png"), "The mask");
        busy(FILLING, true);
        return [mask, shown, presses];
      } catch (error) {
        unsent = error.message;
        throw error;   // nothing is called but done()
      }
    },
    /** Return the number of this press. */
    begin() {
      busy(WORKING, true);
      basis = shown;
      return presses += 1;
    },
    look() { busy(LOOKING); },
    open() { busy(LOADING); },
    key: () => props.value?.key ?? stored(),
    presses: () => presses,
    batchBegins() { isBatch = true; },
    batchEnds() {
      isBatch = false;
      zipUnsaved = true;
    },
    /** Return whether it was not stopped. */
    batchBreaks() {
      const breaks = isBatch;
      isBatch = false;
      return breaks;
    },
    losable: () => losable() || isBatchLosable(),
    async found() {
      isAway = false;
      await this.done();
      if (!isAway) finds = 0;
    },
    async done() {
      if (isAway) return;   // found() comes
      if (window.wsslIsLost) return findAgain();
      const done = doing;
      await wait(100);   // Gradio has the answer, and now shows it
      await showing;
      busy();
      if (unsent) {
        note.textContent = unsent;
        unsent = "";
        return;
      }
      const wrong = document.querySelector("#status .problem");
      if (wrong && done === LOADING) {   // where the photo was chosen
        note.textContent = wrong.textContent;
        wrong.hidden = true;
      } else if (wrong) bring(wrong);
      else if (done === AWAY) unsaved ||= !props.value?.first && shown !== basis;
      else if (done && ![LOADING, LOOKING].includes(done) && shown !== basis) {
        unsaved = true;
        const result = document.getElementById("result"), before = actions;
        const image = () => [...result.querySelectorAll("img")].at(-1);
        for (let tries = 0; tries < 20 && !image()?.src; tries++) await wait(100);
        while (image()?.complete === false && actions === before) await wait(100);   // a slow connection takes long
        if (actions === before) bring(result);
      }
    },
  };

  for (const kind of ["pointerdown", "wheel", "keydown"]) {
    window.addEventListener(kind, () => { actions += 1; }, {capture: true, passive: true});
  }
  window.addEventListener("wssl-lost", () => { if (!doing) findAgain(); });   // else once what is done has ended
  setInterval(() => {
    const {key} = props.value ?? {};
    if (key) fetch(RENEW, {method: "POST", body: key}).catch(() => {});   // the next one may arrive
  }, RENEW_MS);
  watch("value", () => { showing = Promise.resolve(showing).then(show); });   // one after the other
  editor.addEventListener("fill", () => click("fill"));
  stop.addEventListener("click", () => {
    busy(STOPPING);
    trigger("stop");   // the work ends in done()
  });
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = "";
    if (file) load(file);
  });
  element.addEventListener("dragover", event => event.preventDefault());
  element.addEventListener("drop", event => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) load(file);
  });
  document.addEventListener("paste", event => {
    const file = [...event.clipboardData.files].find(each => each.type.startsWith("image/"));
    if (!file || !element.offsetParent) return;
    event.preventDefault();
    load(file);
  });
  document.addEventListener("keydown", event => {
    const end = event.key === "Escape" && [stop, document.getElementById("batch-stop")].find(each => each?.offsetParent);
    if (end && !event.target.closest("input")) return end.click();   // where a list is open, it closes
    if (doing || !element.offsetParent || event.defaultPrevented) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) click("fill");
    else if (event.code === "KeyZ" && event.altKey) click(event.shiftKey ? "redo" : "undo");
    else return;
    event.preventDefault();
  });
  document.addEventListener("click", event => {
    // A fill that was undone is not in it.
    if (event.target.closest("#download") && document.getElementById("redo").disabled) unsaved = false;
    if (event.target.closest("#results .thumbnail-lg")) unsaved = true;   // another result than the one downloaded
    if (event.target.closest("#batch-download")) zipUnsaved = false;
    if (event.target.closest("#batch-stop")) isBatch = false;
  });
  document.addEventListener("click", event => {
    if (!event.target.closest("#examples") || mayLeave()) return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
  for (const kind of ["change", "drop"]) document.addEventListener(kind, event => sift(event, limit), true);
  showing = show();
  if (window.wsslIsLost) findAgain();
  if (input.files[0]) load(input.files[0]);   // chosen before this script arrived
}
