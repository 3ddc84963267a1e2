/* An editor of masks: painting on a photo what is to be filled. A plain ES module without dependencies, for `wssl app`
   and for the page of `wssl export web`. Its style is in editor.css.

   const editor = new MaskEditor(element, {color: "#ff008c"});
   await editor.open(source, {width, height})   a photo; source: Blob, URL (string or URL), ImageBitmap, image, canvas,
                                                perhaps smaller than the photo. width and height: of the photo, default:
                                                those of the source. keep: true keeps the mask if the size is the same.
   await editor.loadMask(blob, {black: false})  a mask file of the photo's shape, white is hole (black: true: black is).
                                                Rejects with an Error that says why.
   await editor.mask()                          Blob: 8-bit grey PNG, 255 is hole, of the photo's size up to MAX_PIXELS;
                                                a larger photo's mask has its shape and about MAX_PIXELS pixels.
   editor.pixels()                              {data, width, height}: the same as bytes, 1 is hole; a copy.
   editor.setPixels({data})                     takes such bytes back.
   editor.isEmpty, clear(), invert(), undo(), redo()
   editor.grow(pixels), shrink(pixels)          of the photo
   editor.tool                                  "brush", "eraser", "box" or "ellipse"
   editor.brushSize                             its diameter in pixels of the photo
   editor.zoom                                  1: the whole photo is visible

   Events: "change" (the mask), "fill" (Enter on the photo, or Ctrl+Enter), "error" (`detail` is a sentence for the
   user, which the editor shows too). While the page is busy: `element.inert = true`. */

export const MAX_PIXELS = 2 ** 25;   // of a mask, whose bytes and those of its history are in memory
const BRUSH = 0.04, LARGEST_BRUSH = 0.5, STEP = 0.005;   // fractions of the photo's longer side
const MAX_ZOOM = 32, HISTORY = 200, STRIP = 512;
const SLIP = 10;   // screen pixels by which a first finger moves before the second one is there
const TOOLS = {brush: "Brush", eraser: "Eraser", box: "Box", ellipse: "Ellipse"};
const KEYS = {b: "brush", e: "eraser", r: "box", o: "ellipse"};
const ICONS = {
  brush: "M4 20c3 0 5-1 5-4 0-1.7-1.3-3-3-3s-3 1.3-3 3c0 2-1 3-1 3s1 1 2 1zM9 13l9-10 3 3-10 9",
  eraser: "M8 20h12M5 13l8-9 7 6-8 10H8l-4-4z",
  box: "M4 5h16v14H4z",
  ellipse: "M2 12a10 7 0 1 0 20 0a10 7 0 1 0-20 0z",
  undo: "M4 9h10a5 5 0 0 1 0 10H9M8 5L4 9l4 4",
  redo: "M20 9H10a5 5 0 0 0 0 10h5M16 5l4 4-4 4",
  grow: "M9 9h6v6H9zM4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  shrink: "M5 5h14v14H5zM9 12h6",
  invert: "M12 3a9 9 0 0 1 0 18zM12 3a9 9 0 0 0 0 18",
  clear: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v6M14 11v6",
  upload: "M12 16V5M7 10l5-5 5 5M4 20h16",
  download: "M12 4v11M7 10l5 5 5-5M4 20h16",
  "zoom-in": "M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13zM15.5 15.5L21 21M10.5 7.5v6M7.5 10.5h6",
  "zoom-out": "M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13zM15.5 15.5L21 21M7.5 10.5h6",
};
const HELP = [
  ["B E R O", "brush, eraser, box, ellipse"], ["[ ]", "smaller or larger brush"], ["+ \u2212 0", "zoom"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"], ["Enter", "fill"],
  ["arrow keys", "move the cursor on the photo, with Shift further"],
  ["Space", "put the brush down or lift it; set the corners of a box"], ["Esc", "lift the brush, drop a box; stop a fill"],
];

export class MaskEditor extends EventTarget {
  #root; #color; #stage; #base; #paint; #cursor; #outline; #size; #status; #alert; #file; #buttons = {};
  #source = null; #decoded = null;   // by the editor itself
  #photo = {width: 0, height: 0};
  #mask = new Uint8Array(0); #width = 0; #height = 0;
  #past = []; #future = []; #before = null;
  #tool = "brush"; #brush = 1;
  #view = {x: 0, y: 0, scale: 1, zoom: 1};   // left and top in pixels of the mask, screen pixels for each
  #point = {x: 0, y: 0}; #start = null; #down = false; #byKey = false; #moved = false;
  #travelled = 0;   // pixels of the mask since the hand was put down
  #pointers = new Map(); #pinch = null; #dirty = null;

  constructor(root, {color = "#ff008c"} = {}) {
    super();
    this.#root = root;
    const [r, g, b] = color.match(/[0-9a-f]{2}/gi).map(each => parseInt(each, 16));
    this.#color = new Uint32Array(new Uint8ClampedArray([r, g, b, 140]).buffer)[0];
    this.#build();
    new ResizeObserver(() => this.#fit()).observe(root);
  }

  get isEmpty() { return !this.#mask.includes(1); }
  get tool() { return this.#tool; }
  set tool(name) {
    if (!(name in TOOLS)) throw new Error(`There is no tool ${name}`);
    this.#lift();
    this.#tool = name;
    for (const each of Object.keys(TOOLS)) this.#buttons[each].ariaPressed = String(each === name);
    this.#showCursor();
  }
  get brushSize() { return this.#brush; }
  set brushSize(pixels) {
    this.#brush = Math.min(Math.max(1, Math.round(pixels)), Math.max(1, this.#largest()));
    this.#size.value = String(100 * Math.log(this.#brush) / Math.log(Math.max(2, this.#largest())));
    this.#size.ariaValueText = `${this.#brush} pixels`;
    this.#size.title = `Brush: ${this.#brush} pixels`;
    this.#showCursor();
  }
  get zoom() { return this.#view.zoom; }
  set zoom(factor) {
    const {width, height} = this.#shown();
    this.#zoomAt(factor, this.#view.x + width / 2, this.#view.y + height / 2);
  }

  async open(source, {width, height, keep = false} = {}) {
    if (typeof source === "string" || source instanceof URL) {
      const answer = await fetch(source);
      if (!answer.ok) throw new Error(`The photo cannot be loaded: ${answer.status}`);
      source = await answer.blob();
    }
    const decoded = source instanceof Blob ? await decode(source, "The photo") : null;
    this.#decoded?.close();
    this.#decoded = decoded;
    source = decoded ?? source;
    width ??= source.naturalWidth ?? source.width;
    height ??= source.naturalHeight ?? source.height;
    const same = width === this.#photo.width && height === this.#photo.height;
    this.#source = source;
    if (!(keep && same)) {
      this.#photo = {width, height};
      const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
      this.#width = Math.max(1, Math.floor(width * scale));
      this.#height = Math.max(1, Math.floor(height * scale));
      this.#mask = new Uint8Array(this.#width * this.#height);
      this.#past = [];
      this.#future = [];
      this.#before = this.#start = null;
      this.#down = false;
      this.#point = {x: this.#width / 2, y: this.#height / 2};
      this.#view.zoom = 1;
      if (!same) this.brushSize = BRUSH * Math.max(width, height);
    }
    this.#root.classList.add("has-photo");
    this.#say("");
    this.#fit();
    this.#changed();
  }

  async loadMask(blob, {black = false} = {}) {
    const bitmap = await decode(blob, "The mask");
    const {width, height} = this.#photo;
    if (!width) throw new Error("Load a photo before its mask");
    const scale = Math.max(bitmap.width, bitmap.height) / Math.max(width, height);
    const off = Math.max(1, scale);
    if (Math.abs(bitmap.width - width * scale) > off || Math.abs(bitmap.height - height * scale) > off) {
      throw new Error(`The mask has ${bitmap.width} × ${bitmap.height} pixels, the photo ${width} × ${height}: ` +
        "give a mask of the photo's size");
    }
    const loaded = new Uint8Array(this.#mask.length);
    const canvas = new OffscreenCanvas(this.#width, Math.min(STRIP, this.#height));
    const context = canvas.getContext("2d", {willReadFrequently: true});
    const ratio = bitmap.height / this.#height;
    for (let top = 0; top < this.#height; top += STRIP) {
      const rows = Math.min(STRIP, this.#height - top);
      context.fillStyle = black ? "white" : "black";   // what is transparent is no hole
      context.fillRect(0, 0, this.#width, rows);
      context.drawImage(bitmap, 0, top * ratio, bitmap.width, rows * ratio, 0, 0, this.#width, rows);
      const {data} = context.getImageData(0, 0, this.#width, rows);
      for (let i = 0, at = top * this.#width; i < data.length; i += 4, at++) {
        loaded[at] = (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2] >= 127.5) !== black ? 1 : 0;
      }
    }
    bitmap.close();
    this.#edit(mask => mask.set(loaded));
    const part = loaded.reduce((sum, each) => sum + each, 0) / loaded.length;
    const note = part > 0.5 ? ": if black is the hole, press Invert" : "";
    this.#say(`The mask marks ${Math.round(100 * part)} % of the photo${note}`);
  }

  pixels() { return {data: this.#mask.slice(), width: this.#width, height: this.#height}; }
  setPixels({data}) { this.#edit(mask => mask.set(data)); }
  async mask() { return writePng(this.#mask.map(each => 255 * each), this.#width, this.#height, 1); }
  clear() { this.#edit(mask => mask.fill(0)); }
  invert() { this.#edit(flip); }
  grow(pixels) {
    this.#edit(mask => grow(mask, this.#width, this.#height, Math.max(1, Math.round(pixels * this.#ratio()))));
  }
  shrink(pixels) {
    const radius = Math.max(1, Math.round(pixels * this.#ratio()));
    this.#edit(mask => {
      flip(mask);
      grow(mask, this.#width, this.#height, radius);
      flip(mask);
    });
  }
  undo() { this.#step(this.#past, this.#future, "before"); }
  redo() { this.#step(this.#future, this.#past, "after"); }

  // --- the mask ---

  #ratio() { return this.#width / Math.max(1, this.#photo.width); }
  #largest() { return Math.round(LARGEST_BRUSH * Math.max(this.#photo.width, this.#photo.height)); }

  #edit(change) {
    this.#lift();
    const before = this.#mask.slice();
    change(this.#mask);
    this.#record(before);
  }

  #record(before) {
    const box = difference(before, this.#mask, this.#width);
    if (!box) return;
    this.#past.push({box, before: packed(before, this.#width, box), after: packed(this.#mask, this.#width, box)});
    if (this.#past.length > HISTORY) this.#past.shift();
    this.#future = [];
    this.#redraw(box);
    this.#changed();
  }

  #step(from, to, state) {
    this.#lift();
    const entry = from.pop();
    if (!entry) return;
    to.push(entry);
    unpacked(entry[state], this.#mask, this.#width, entry.box);
    this.#redraw(entry.box);
    this.#changed();
  }

  #changed() {
    this.#able("undo", this.#past.length);
    this.#able("redo", this.#future.length);
    for (const name of ["invert", "upload"]) this.#able(name, this.#width);
    const empty = this.isEmpty;
    for (const name of ["clear", "grow", "shrink", "download"]) this.#able(name, !empty);
    this.dispatchEvent(new Event("change"));
  }

  #begin(point) {
    this.#before = this.#mask.slice();
    this.#down = true;
    this.#start = this.#point = point;
    this.#travelled = 0;
    if (this.#isBrush()) this.#drawLine(point, point);
    this.#showCursor();
  }

  #move(point) {
    if (this.#down && this.#isBrush()) this.#drawLine(this.#point, point);
    this.#travelled += Math.hypot(point.x - this.#point.x, point.y - this.#point.y);
    this.#point = point;
    this.#showCursor();
  }

  #end() {
    if (!this.#down) return;
    this.#down = false;
    if (!this.#isBrush()) this.#drawShape();
    const before = this.#before;
    this.#before = this.#start = null;
    this.#record(before);
    this.#showCursor();
  }

  /** A stroke stays when something else is done; a box that has one corner does not. */
  #lift() {
    if (!this.#down) return;
    if (this.#isBrush()) this.#end();
    else this.#cancel();
  }

  /** A second finger, or the system, ends a stroke: what is more than a dot or a slip stays, and Undo removes it. */
  #interrupt() {
    const slip = Math.max(this.#brush * this.#ratio(), SLIP / this.#view.scale);
    if (this.#isBrush() && this.#travelled > slip) this.#end();
    else this.#cancel();
  }

  #cancel() {
    if (!this.#down) return;
    this.#mask.set(this.#before);
    this.#down = false;
    this.#before = this.#start = null;
    this.#redraw();
    this.#showCursor();
  }

  #isBrush() { return this.#tool === "brush" || this.#tool === "eraser"; }

  /** A line with round ends: of each row the pixels whose centres lie in one of the discs along it. */
  #drawLine(from, to) {
    const radius = Math.max(0.71, this.#brush * this.#ratio() / 2);
    const top = Math.max(0, Math.ceil(Math.min(from.y, to.y) - radius - 0.5));
    const bottom = Math.min(this.#height - 1, Math.floor(Math.max(from.y, to.y) + radius - 0.5));
    if (bottom < top) return;
    const left = new Float64Array(bottom - top + 1).fill(Infinity);
    const right = new Float64Array(left.length).fill(-Infinity);
    const steps = Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(0.5, radius / 8));
    for (let step = 0; step <= steps; step++) {
      const part = steps ? step / steps : 0;
      const x = from.x + part * (to.x - from.x), y = from.y + part * (to.y - from.y);
      const last = Math.min(bottom, Math.floor(y + radius - 0.5));
      for (let row = Math.max(top, Math.ceil(y - radius - 0.5)); row <= last; row++) {
        const half = Math.sqrt(Math.max(0, radius * radius - (row + 0.5 - y) ** 2));
        left[row - top] = Math.min(left[row - top], x - half);
        right[row - top] = Math.max(right[row - top], x + half);
      }
    }
    const value = this.#tool === "eraser" ? 0 : 1;
    for (let row = top; row <= bottom; row++) this.#fillRow(row, left[row - top], right[row - top], value);
    const x = Math.min(from.x, to.x) - radius, width = Math.abs(from.x - to.x) + 2 * radius;
    this.#redraw({left: Math.floor(x), top, right: Math.ceil(x + width) + 1, bottom: bottom + 1});
  }

  #drawShape() {
    const [x0, x1] = [this.#start.x, this.#point.x].sort((a, b) => a - b);
    const [y0, y1] = [this.#start.y, this.#point.y].sort((a, b) => a - b);
    for (let row = Math.max(0, Math.ceil(y0 - 0.5)); row <= Math.min(this.#height - 1, Math.floor(y1 - 0.5)); row++) {
      let left = x0, right = x1;
      if (this.#tool === "ellipse") {
        const part = (2 * (row + 0.5) - y0 - y1) / (y1 - y0);
        const half = (x1 - x0) / 2 * Math.sqrt(Math.max(0, 1 - part * part));
        [left, right] = [(x0 + x1) / 2 - half, (x0 + x1) / 2 + half];
      }
      this.#fillRow(row, left, right, 1);
    }
  }

  #fillRow(row, left, right, value) {
    const start = Math.max(0, Math.ceil(left - 0.5)), stop = Math.min(this.#width, Math.floor(right - 0.5) + 1);
    if (start < stop) this.#mask.fill(value, row * this.#width + start, row * this.#width + stop);
  }

  // --- what is seen ---

  /** The part of the mask that is visible, in its pixels. */
  #shown() { return {width: this.#width / this.#view.zoom, height: this.#height / this.#view.zoom}; }

  #fit() {
    if (!this.#width) return;
    const available = this.#root.clientWidth;
    if (!available) return;   // not visible: called again when it is
    const highest = Math.max(200, 0.7 * window.innerHeight);
    const scale = Math.min(available / this.#width, highest / this.#height);
    const width = Math.max(1, this.#width * scale), height = Math.max(1, this.#height * scale);
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.#stage.style.width = `${width}px`;
    this.#stage.style.height = `${height}px`;
    for (const canvas of [this.#base, this.#paint]) {
      canvas.width = Math.max(1, Math.round(width * ratio));
      canvas.height = Math.max(1, Math.round(height * ratio));
    }
    this.#look();
  }

  #look() {
    const view = this.#view, shown = this.#shown();
    view.x = Math.min(Math.max(0, view.x), this.#width - shown.width);
    view.y = Math.min(Math.max(0, view.y), this.#height - shown.height);
    view.scale = this.#stage.clientWidth / shown.width || 1;
    const context = this.#base.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = view.scale < 4;
    context.clearRect(0, 0, this.#base.width, this.#base.height);
    const source = this.#source, across = (source.naturalWidth ?? source.width) / this.#width;
    const down = (source.naturalHeight ?? source.height) / this.#height;
    context.drawImage(source, view.x * across, view.y * down, shown.width * across, shown.height * down,
      0, 0, this.#base.width, this.#base.height);
    this.#able("zoom-out", view.zoom > 1);
    this.#able("zoom-in", view.zoom < MAX_ZOOM);
    this.#redraw();
    this.#showCursor();
  }

  #zoomAt(factor, x, y) {
    const view = this.#view, zoom = Math.min(Math.max(1, factor), MAX_ZOOM), change = view.zoom / zoom;
    view.x = x - (x - view.x) * change;
    view.y = y - (y - view.y) * change;
    view.zoom = zoom;
    this.#look();
  }

  /** Draws a box of the mask, or all of it, with the next frame. */
  #redraw(box = {left: 0, top: 0, right: this.#width, bottom: this.#height}) {
    const first = !this.#dirty;
    this.#dirty = first ? {...box} : {
      left: Math.min(box.left, this.#dirty.left), top: Math.min(box.top, this.#dirty.top),
      right: Math.max(box.right, this.#dirty.right), bottom: Math.max(box.bottom, this.#dirty.bottom),
    };
    if (first) requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const box = this.#dirty, canvas = this.#paint, view = this.#view, shown = this.#shown();
    this.#dirty = null;
    const across = canvas.width / shown.width, down = canvas.height / shown.height;
    const left = Math.max(0, Math.floor((box.left - view.x) * across) - 1);
    const top = Math.max(0, Math.floor((box.top - view.y) * down) - 1);
    const width = Math.min(canvas.width, Math.ceil((box.right - view.x) * across) + 1) - left;
    const height = Math.min(canvas.height, Math.ceil((box.bottom - view.y) * down) + 1) - top;
    if (width < 1 || height < 1) return;
    const image = new ImageData(width, height), colours = new Uint32Array(image.data.buffer);
    const columns = new Int32Array(width);
    for (let i = 0; i < width; i++) {
      columns[i] = Math.min(this.#width - 1, Math.floor(view.x + (left + i + 0.5) / across));
    }
    for (let j = 0, at = 0; j < height; j++) {
      const row = Math.min(this.#height - 1, Math.floor(view.y + (top + j + 0.5) / down)) * this.#width;
      for (let i = 0; i < width; i++, at++) if (this.#mask[row + columns[i]]) colours[at] = this.#color;
    }
    canvas.getContext("2d").putImageData(image, left, top);
  }

  #showCursor() {
    const {x, y, scale} = this.#view, style = this.#cursor.style;
    const size = this.#isBrush() ? Math.max(4, this.#brush * this.#ratio() * scale) : 14;
    style.width = style.height = `${size}px`;
    const left = (this.#point.x - x) * scale - size / 2, top = (this.#point.y - y) * scale - size / 2;
    style.transform = `translate(${left}px, ${top}px)`;
    this.#cursor.className = `wssl-cursor ${this.#isBrush() ? "round" : "cross"}${this.#down ? " down" : ""}`;
    const shape = this.#down && !this.#isBrush(), outline = this.#outline;
    outline.hidden = !shape;
    if (!shape) return;
    const from = this.#start, to = this.#point;
    outline.style.transform =
      `translate(${(Math.min(from.x, to.x) - x) * scale}px, ${(Math.min(from.y, to.y) - y) * scale}px)`;
    outline.style.width = `${Math.abs(from.x - to.x) * scale}px`;
    outline.style.height = `${Math.abs(from.y - to.y) * scale}px`;
    outline.classList.toggle("round", this.#tool === "ellipse");
  }

  /** A button that can do nothing looks like it, but keeps the focus, and with it the keys. */
  #able(name, can) { this.#buttons[name].ariaDisabled = String(!can); }

  #say(text) { this.#alert.textContent = ""; this.#status.textContent = text; }

  #complain(error) {
    this.#alert.textContent = error.message;
    this.dispatchEvent(new CustomEvent("error", {detail: error.message}));
  }

  // --- hands ---

  #at(event) {
    const box = this.#paint.getBoundingClientRect(), shown = this.#shown();
    return {
      x: this.#view.x + (event.clientX - box.left) / box.width * shown.width,
      y: this.#view.y + (event.clientY - box.top) / box.height * shown.height,
    };
  }

  #pointerDown(event) {
    if (event.button > 1 || !this.#width) return;
    event.preventDefault();
    this.#paint.focus({preventScroll: true});
    this.#paint.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    this.#byKey = false;
    if (this.#pointers.size === 2 || event.button === 1) {
      this.#interrupt();   // two fingers move the photo
      this.#pinch = this.#fingers();
    } else if (this.#pointers.size === 1) {
      this.#lift();
      this.#begin(this.#at(event));
    }
  }

  #fingers() {
    const points = [...this.#pointers.values()], [a, b = a] = points;
    return {clientX: (a.x + b.x) / 2, clientY: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) || 1};
  }

  #pointerMove(event) {
    if (this.#pointers.has(event.pointerId)) this.#pointers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    if (this.#pinch) {
      const now = this.#fingers(), held = this.#at(this.#pinch), point = this.#at(now);
      this.#view.x += held.x - point.x;
      this.#view.y += held.y - point.y;
      this.#zoomAt(this.#view.zoom * now.apart / this.#pinch.apart, held.x, held.y);
      this.#pinch = now;
      return;
    }
    if (this.#down && this.#byKey) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.#move(this.#at(each));
  }

  #pointerUp(event) {
    this.#pointers.delete(event.pointerId);
    if (this.#pinch) {
      this.#pinch = this.#pointers.size ? this.#fingers() : null;
    } else if (event.type === "pointercancel") {
      this.#interrupt();
    } else if (!this.#byKey) {
      this.#end();
    }
  }

  #keyDown(event) {
    const key = event.key.toLowerCase(), onPhoto = event.target === this.#paint;
    if (event.ctrlKey || event.metaKey) {
      if (key === "enter") this.dispatchEvent(new Event("fill"));
      else if (key === "z" && !event.shiftKey) this.undo();
      else if (key === "y" || key === "z") this.redo();
      else return;
    } else if (event.altKey || !this.#width) return;
    else if (key in KEYS) { this.tool = KEYS[key]; this.#say(TOOLS[this.#tool]); }
    else if (key === "[" || key === "]") {
      const step = Math.max(1, Math.round(this.#brush / 8));
      this.brushSize = this.#brush + (key === "]" ? step : -step);
      this.#say(`Brush: ${this.#brush} pixels`);
    } else if (key === "+" || key === "=") this.zoom *= 1.5;
    else if (key === "-") this.zoom /= 1.5;
    else if (key === "0") this.zoom = 1;
    else if (!onPhoto) return;
    else if (event.repeat && (key === "enter" || key === " ")) {}   // held: once is enough
    else if (key === "enter") { this.#lift(); this.dispatchEvent(new Event("fill")); }
    else if (key === "escape") {
      if (!this.#down) return;
      this.#lift();
      this.#say(this.#isBrush() ? "Brush lifted" : "No box");
    } else if (key === " ") this.#space();
    else if (key.startsWith("arrow")) this.#arrow(key, event.shiftKey);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #space() {
    if (this.#pointers.size) return;
    const name = TOOLS[this.#tool];
    if (this.#down) {
      this.#end();
      this.#say(this.#isBrush() ? `${name} lifted` : `${name} set`);
    } else {
      this.#byKey = true;
      this.#begin(this.#point);
      this.#say(this.#isBrush() ? `${name} down: arrow keys ${this.#tool === "brush" ? "paint" : "erase"}`
        : `${name}: first corner set; move, then press Space`);
    }
  }

  #arrow(key, far) {
    const shown = this.#shown(), step = Math.max(1, Math.max(shown.width, shown.height) * (far ? 0.05 : 0.01));
    const dx = {arrowleft: -step, arrowright: step}[key] ?? 0, dy = {arrowup: -step, arrowdown: step}[key] ?? 0;
    const x = Math.min(Math.max(0, this.#point.x + dx), this.#width);
    const y = Math.min(Math.max(0, this.#point.y + dy), this.#height);
    this.#move({x, y});
    const view = this.#view, beyond = (at, from, size) => at < from ? at - from : Math.max(0, at - from - size);
    const right = beyond(x, view.x, shown.width), below = beyond(y, view.y, shown.height);
    if (right || below) { view.x += right; view.y += below; this.#look(); }
  }

  // --- the elements ---

  #build() {
    const root = this.#root, make = (name, attributes = {}, parent = root) => {
      const element = document.createElement(name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      parent.append(element);
      return element;
    };
    root.classList.add("wssl-editor");
    const bar = make("div", {class: "wssl-bar", role: "toolbar", "aria-label": "Mask tools"});
    const button = (parent, name, label, action, keys) => {
      const element = make("button", {type: "button", "data-tool": name, "aria-label": label,
        title: keys ? `${label} (${keys})` : label}, parent);
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      svg.setAttribute("viewBox", "0 0 24 24");
      svg.setAttribute("aria-hidden", "true");
      path.setAttribute("d", ICONS[name]);
      svg.append(path);
      element.append(svg);
      element.addEventListener("click", action);
      this.#buttons[name] = element;
    };
    const group = label => make("div", {role: "group", "aria-label": label}, bar);
    const step = () => Math.max(1, Math.round(STEP * Math.max(this.#photo.width, this.#photo.height)));
    const tools = group("Tool");
    for (const [name, label] of Object.entries(TOOLS)) {
      const key = Object.keys(KEYS).find(each => KEYS[each] === name);
      button(tools, name, label, () => { this.tool = name; }, key.toUpperCase());
    }
    const sizes = group("Brush");
    this.#size = make("input", {type: "range", min: 0, max: 100, step: "any", "aria-label": "Brush size"}, sizes);
    this.#size.addEventListener("input", () => {
      const size = Math.max(2, this.#largest()) ** (this.#size.valueAsNumber / 100), change = size - this.#brush;
      // A key moves it by less than a pixel where the brush is small.
      this.brushSize = Math.abs(change) < 1 ? this.#brush + Math.sign(change) : size;
    });
    const steps = group("History");
    button(steps, "undo", "Undo", () => this.undo(), "Ctrl+Z");
    button(steps, "redo", "Redo", () => this.redo(), "Ctrl+Shift+Z");
    const whole = group("Mask");
    button(whole, "grow", "Grow", () => { this.grow(step()); this.#say(`Grown by ${step()} pixels`); });
    button(whole, "shrink", "Shrink", () => { this.shrink(step()); this.#say(`Shrunk by ${step()} pixels`); });
    button(whole, "invert", "Invert", () => { this.invert(); this.#say("Inverted"); });
    button(whole, "clear", "Clear", () => { this.clear(); this.#say("Cleared"); });
    const files = group("Mask file");
    button(files, "upload", "Load a mask file, white is hole", () => this.#file.click());
    button(files, "download", "Save the mask as PNG", async () => save(await this.mask(), "mask.png"));
    this.#file = make("input", {type: "file", accept: "image/*", hidden: "", "aria-label": "Mask file"}, files);
    this.#file.addEventListener("change", async () => {
      const [file] = this.#file.files;
      this.#file.value = "";
      if (file) await this.loadMask(file).catch(error => this.#complain(error));
    });
    const zoom = group("Zoom");
    button(zoom, "zoom-out", "Zoom out", () => { this.zoom /= 1.5; }, "\u2212");
    button(zoom, "zoom-in", "Zoom in", () => { this.zoom *= 1.5; }, "+");

    this.#stage = make("div", {class: "wssl-stage"});
    this.#base = make("canvas", {"aria-hidden": "true"}, this.#stage);
    const hint = "Arrow keys move the cursor, Space puts the brush down or lifts it, Enter fills";
    this.#paint = make("canvas", {tabindex: 0, role: "application", "aria-label": "Photo to paint on",
      "aria-description": hint}, this.#stage);
    this.#outline = make("div", {class: "wssl-outline", hidden: ""}, this.#stage);
    this.#cursor = make("div", {class: "wssl-cursor"}, this.#stage);
    this.#alert = make("p", {role: "alert"});
    this.#status = make("p", {role: "status"});
    const help = make("details");
    make("summary", {}, help).textContent = "Keys";
    const list = make("dl", {}, help);
    for (const [keys, text] of HELP) {
      make("dt", {}, list).textContent = keys;
      make("dd", {}, list).textContent = text;
    }

    const paint = this.#paint;
    paint.addEventListener("pointerdown", event => this.#pointerDown(event));
    paint.addEventListener("pointermove", event => this.#pointerMove(event));
    paint.addEventListener("pointerup", event => this.#pointerUp(event));
    paint.addEventListener("pointercancel", event => this.#pointerUp(event));
    paint.addEventListener("contextmenu", event => event.preventDefault());
    paint.addEventListener("blur", () => this.#byKey && this.#lift());
    paint.addEventListener("wheel", event => {
      if (!this.#width || !(event.ctrlKey || event.metaKey || this.#view.zoom > 1)) return;   // the page scrolls
      event.preventDefault();
      const {x, y} = this.#at(event);
      if (event.ctrlKey || event.metaKey) return this.#zoomAt(this.#view.zoom * 2 ** (-event.deltaY / 240), x, y);
      this.#view.x += event.deltaX / this.#view.scale;
      this.#view.y += event.deltaY / this.#view.scale;
      this.#look();
    }, {passive: false});
    root.addEventListener("keydown", event => this.#keyDown(event));
    this.tool = "brush";
    for (const name of Object.keys(this.#buttons)) this.#able(name, name in TOOLS);
  }
}

async function decode(blob, what) {
  try {
    return await createImageBitmap(blob, {imageOrientation: "from-image"});
  } catch {
    throw new Error(`${what} is not an image that this browser reads`);
  }
}

/** The smallest box in which two masks differ, or null. */
function difference(a, b, width) {
  const box = {left: width, top: Infinity, right: 0, bottom: 0};
  for (let row = 0, start = 0; start < a.length; row++, start += width) {
    let left = 0, right = width;
    while (left < width && a[start + left] === b[start + left]) left++;
    if (left === width) continue;
    while (a[start + right - 1] === b[start + right - 1]) right--;
    box.left = Math.min(box.left, left);
    box.right = Math.max(box.right, right);
    box.top = Math.min(box.top, row);
    box.bottom = row + 1;
  }
  return box.bottom ? box : null;
}

/** A box of a mask, eight pixels a byte. */
export function packed(mask, width, {left, top, right, bottom}) {
  const bits = new Uint8Array(Math.ceil((right - left) * (bottom - top) / 8));
  for (let row = top, at = 0; row < bottom; row++) {
    const end = row * width + right;
    for (let i = row * width + left; i < end; i++, at++) bits[at >> 3] |= mask[i] << (at & 7);
  }
  return bits;
}

function unpacked(bits, mask, width, {left, top, right, bottom}) {
  for (let row = top, at = 0; row < bottom; row++) {
    const end = row * width + right;
    for (let i = row * width + left; i < end; i++, at++) mask[i] = bits[at >> 3] >> (at & 7) & 1;
  }
}

function flip(mask) { for (let at = 0; at < mask.length; at++) mask[at] ^= 1; }

/** Grow a mask in place: all that is at most `radius` pixels from it. */
function grow(mask, width, height, radius) {
  const apart = new Uint16Array(mask.length), far = radius + 1;   // to the nearest one in the same row
  for (let row = 0; row < height; row++) {
    const start = row * width;
    for (let x = 0, last = far; x < width; x++) apart[start + x] = last = mask[start + x] ? 0 : Math.min(far, last + 1);
    for (let x = width - 1, last = far; x >= 0; x--) {
      last = Math.min(apart[start + x], last + 1);
      apart[start + x] = Math.min(far, last);
    }
  }
  for (let dy = -radius; dy <= radius; dy++) {
    const half = Math.floor(Math.sqrt(radius * radius - dy * dy));
    const end = Math.min(height, height - dy) * width;
    for (let at = Math.max(0, -dy) * width, other = at + dy * width; at < end; at++, other++) {
      if (apart[other] <= half) mask[at] = 1;
    }
  }
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const CRC = Uint32Array.from({length: 256}, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ value >>> 1 : value >>> 1;
  return value;
});

/** A PNG of 8 bits a channel as a Blob, without a canvas: that would multiply colours by alpha, and convert them.

    pixels: bytes, row by row; channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. extra: [[name, bytes], ...], chunks to
    put before the pixels. */
export async function writePng(pixels, width, height, channels, extra = []) {
  const packer = new CompressionStream("deflate"), writer = packer.writable.getWriter();
  const bytes = new Response(packer.readable).arrayBuffer();
  const stride = width * channels;
  for (let top = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top), lines = new Uint8Array(rows * (stride + 1));
    for (let row = 0; row < rows; row++) {
      const from = (top + row) * stride, to = row * (stride + 1);
      lines[to] = 2;   // each row is the difference to the one above
      for (let i = 0; i < stride; i++) lines[to + 1 + i] = pixels[from + i] - (from ? pixels[from + i - stride] : 0);
    }
    await writer.write(lines);
  }
  await writer.close();
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, [0, 0, 4, 2, 6][channels]);
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);
  const chunks = [["IHDR", new Uint8Array(header.buffer)], ...extra, ["IDAT", new Uint8Array(await bytes)]];
  const parts = [...chunks, ["IEND", new Uint8Array(0)]].map(([name, data]) => chunk(name, data));
  return new Blob([signature, ...parts.flat()], {type: "image/png"});
}

function chunk(name, data) {
  const head = new Uint8Array(8), tail = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, data.length);
  head.set(new TextEncoder().encode(name), 4);
  let crc = 0xffffffff;
  for (const part of [head.subarray(4), data]) {
    for (let i = 0; i < part.length; i++) crc = CRC[(crc ^ part[i]) & 255] ^ crc >>> 8;
  }
  new DataView(tail.buffer).setUint32(0, ~crc);
  return [head, data, tail];
}
