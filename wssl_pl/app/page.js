/* What the photo's tab does in the browser: a photo is loaded and painted on, and its mask sent when it is filled. */
import {MaskEditor} from "./editor.js";

const UPLOAD = new URL("gradio_api/upload", document.baseURI);
const click = id => document.getElementById(id)?.click();
const LOADING = "Loading the photo …", FILLING = "Filling …", WORKING = "Working …";
const wait = ms => new Promise(resolve => setTimeout(resolve, ms));

/** Scroll to an element that is not wholly visible. */
function bring(element) {
  const {top, bottom, height} = element.getBoundingClientRect();
  if (top >= 0 && bottom <= window.innerHeight) return;
  element.scrollIntoView({block: height < window.innerHeight ? "center" : "start"});
}

/** Start the tab; `element`, `trigger`, `props` and `watch` are those of Gradio's HTML component. */
export function start({element, trigger, props, watch, megabytes}) {
  const editor = new MaskEditor(element.querySelector(".photo-mask"));
  const note = element.querySelector(".photo-note"), input = element.querySelector("input[type=file]");
  const veil = element.querySelector(".photo-busy"), tab = element.closest("[role=tabpanel]");
  let arrived = null, doing = "", unsaved = false, focused = null, showing = null;

  async function send(file, name = file.name) {
    if (file.size > megabytes * 1e6) {
      throw new Error(`${name} has ${(file.size / 1e6).toFixed(0)} MB, and at most ${megabytes} MB are taken`);
    }
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

  /** Meanwhile nothing of the tab can be used; what had the focus gets it again. */
  function busy(what = "") {
    doing = what;
    veil.replaceChildren();
    if (what) {
      note.textContent = "";
      veil.appendChild(document.createElement("span")).textContent = what;
      if (!tab.inert) focused = document.activeElement;
    }
    tab.inert = Boolean(what);
    if (!what && document.activeElement === document.body) focused?.focus({preventScroll: true});
  }

  async function load(file) {
    busy(LOADING);
    try {
      arrived = await send(file);
      trigger("upload");   // ends in done()
    } catch (error) {
      busy();
      note.textContent = error.message;
    }
  }

  async function show() {
    const {photo, mask, width, height, first} = props.value ?? {};
    if (!photo) return;
    try {
      await editor.open(photo.url, {width, height, keep: !first});
      if (!first) editor.clear();   // its own undo brings the strokes back
      if (mask) await editor.loadMask(await (await fetch(mask.url)).blob());
    } catch (error) {
      note.textContent = error.message;
    }
  }

  window.wsslPage = {
    taken() {
      const file = arrived;
      arrived = null;
      return file;
    },
    /** Return the painted mask, or null, and what went wrong. */
    async takeMask() {
      if (editor.isEmpty) return [null, ""];
      busy(FILLING);
      try {
        return [await send(new File([await editor.mask()], "mask.png"), "the mask"), ""];
      } catch (error) {
        return [null, error.message];
      }
    },
    begin() { busy(WORKING); },
    async done() {
      const done = doing;
      await wait(100);   // Gradio has the answer, and now shows it
      await showing;
      busy();
      const wrong = document.querySelector("#status .problem");
      if (wrong && done === LOADING) {   // where the photo was chosen
        note.textContent = wrong.textContent;
        wrong.hidden = true;
      } else if (wrong) bring(wrong);
      else if (done === FILLING || done === WORKING) {
        unsaved = true;
        const result = document.getElementById("result");
        for (let tries = 0; tries < 20 && ![...result.querySelectorAll("img")].at(-1)?.height; tries++) await wait(100);
        bring(result);
      }
    },
  };

  watch("value", () => { showing = show(); });
  editor.addEventListener("fill", () => click("fill"));
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
    if (!file || tab.inert || !element.offsetParent) return;
    event.preventDefault();
    load(file);
  });
  document.addEventListener("keydown", event => {
    if (tab.inert || !element.offsetParent || event.defaultPrevented) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) click("fill");
    else if (event.code === "KeyZ" && event.altKey) click(event.shiftKey ? "redo" : "undo");
    else return;
    event.preventDefault();
  });
  document.addEventListener("click", event => {
    if (event.target.closest("#download")) unsaved = false;
  });
  window.addEventListener("beforeunload", event => { if (unsaved) event.preventDefault(); });
  show();
}
