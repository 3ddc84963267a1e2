/* The page's worker: it holds the photo and its history, and runs the network, so that the page stays responsive.

   Each message is {id, action, ...}; the answer is {id, result} or {id, error}. Without an id: {cancel: true} to the
   worker, {progress: [done, total]} from it. */

import {packed, writePng} from "./editor.js";
import {fill, tightBox, whole} from "./fill.js";
import {readPhoto} from "./photo.js";

const RUNTIMES = {
  wasm: ["ort.wasm.min.js", "ort-wasm-simd-threaded"],
  webgpu: ["ort.webgpu.min.js", "ort-wasm-simd-threaded.asyncify"],
};
let config, session, ort, photo, opened, past = [], future = [], cancelled = false;

const actions = {
  async start(given) {
    config = given.config;
    const reasons = [];
    for (const device of given.devices) {
      try {
        await open(device, given.threads);
        return {device, threads: device === "wasm" ? given.threads : 0, reasons};
      } catch (error) {
        reasons.push(`${device}: ${error.message ?? error}`);
      }
    }
    throw new Error(`The model does not run in this browser (${reasons.join("; ")})`);
  },

  async open({blob}) {
    opened = await readPhoto(blob);
    return {width: opened.width, height: opened.height, notes: opened.notes};
  },

  /** The page shows the opened photo; until then the one before stays. */
  accept() {
    [photo, opened] = [opened, null];
    past = [];
    future = [];
  },

  async fill({mask}) {
    const hole = scaled(mask, photo), box = tightBox(hole, whole(hole));
    if (!box) throw new Error("Nothing is painted yet: paint over what is to be filled");
    if (!hole.data.includes(0)) throw new Error("The whole photo is painted: leave some of it to start from");
    const work = {...photo, data: photo.data.slice(), alpha: photo.alpha?.slice()};
    cancelled = false;
    const started = performance.now();
    await fill(work, hole, run, config.tiling, async (done, total) => {
      postMessage({progress: [done, total]});
      await new Promise(resolve => setTimeout(resolve));   // lets a message in
      if (cancelled) throw new Error("cancelled");
    });
    const seconds = (performance.now() - started) / 1000;
    if (work.alpha) hole.data.forEach((inside, at) => { if (inside) work.alpha[at] = 255; });   // else it is not seen
    const png = await encode(work), bits = packed(hole.data, hole.width, box);
    const entry = {box, bits, before: values(photo, box, bits), after: values(work, box, bits)};
    // Nothing can fail from here on: what the page calls a failure leaves no trace.
    past.push(entry);
    future = [];
    photo = work;
    return {png, seconds, count: entry.after.colours.length / photo.channels};
  },

  undo() { step(past, future, "before"); },
  redo() { step(future, past, "after"); },
};

onmessage = async ({data}) => {
  if (data.cancel) { cancelled = true; return; }
  try {
    postMessage({id: data.id, result: await actions[data.action](data)});
  } catch (error) {
    postMessage({id: data.id, error: error instanceof RangeError ? "The memory does not suffice: take a smaller photo"
      : error.message ?? String(error)});
  }
};

/** Load onnxruntime and the model, and check on a small image that they compute what they should. */
async function open(device, threads) {
  const [script, wasm] = RUNTIMES[device], at = name => new URL(`ort/${name}`, import.meta.url).href;
  ort = await import(at(script));
  ort.env.wasm.wasmPaths = {mjs: at(`${wasm}.js`), wasm: at(`${wasm}.wasm`)};
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const model = new URL("model.onnx", import.meta.url).href;
  session = await ort.InferenceSession.create(model, {executionProviders: [device], logSeverityLevel: 3});
  const {side, step: every, expected, tolerance} = config.check, area = side * side;
  const planes = Float32Array.from({length: 3 * area}, (_, i) => i * 7919 % 256 / 255);
  const holes = Float32Array.from({length: area}, (_, i) => i * 31 % area < area / 4 ? 1 : 0);
  for (let i = 0; i < planes.length; i++) if (holes[i % area]) planes[i] = 0;
  const output = await run(planes, holes, 1, side, side);
  const apart = expected.reduce((worst, value, i) => Math.max(worst, Math.abs(value - output[i * every])), 0);
  if (!(apart <= tolerance)) throw new Error(`wrong by ${apart}`);
}

async function run(planes, holes, batch, height, width) {
  const image = new ort.Tensor("float32", planes, [batch, 3, height, width]);
  const mask = new ort.Tensor("float32", holes, [batch, 1, height, width]);
  const {output} = await session.run({image, mask});
  const values = await output.getData();
  output.dispose();
  return values;
}

/** The mask in the photo's size; that of a very large photo is smaller. */
function scaled(mask, {width, height}) {
  if (mask.width === width && mask.height === height) return mask;
  const data = new Uint8Array(width * height);
  for (let y = 0, at = 0; y < height; y++) {
    const row = Math.floor((y + 0.5) * mask.height / height) * mask.width;
    for (let x = 0; x < width; x++, at++) data[at] = mask.data[row + Math.floor((x + 0.5) * mask.width / width)];
  }
  return {data, width, height};
}

/** Call `action` with the place of each pixel of a hole, whose bits in a box are packed. */
function each({top, left, bottom, right}, bits, width, action) {
  for (let y = top, i = 0; y < bottom; y++) {
    for (let x = left; x < right; x++, i++) if (bits[i >> 3] >> (i & 7) & 1) action(y * width + x);
  }
}

/** The colours of the hole's pixels, and their alpha if the photo has some: a history of the whole photo, or of the box,
    would not fit into memory. */
function values({data, alpha, width, channels}, box, bits) {
  let count = 0, to = 0;
  each(box, bits, width, () => { count++; });
  const colours = new Uint8Array(count * channels), alphas = new Uint8Array(alpha ? count : 0);
  each(box, bits, width, at => {
    for (let c = 0; c < channels; c++) colours[to * channels + c] = data[at * channels + c];
    if (alpha) alphas[to] = alpha[at];
    to++;
  });
  return {colours, alphas};
}

function step(from, to, state) {
  const entry = from.pop(), {data, alpha, width, channels} = photo, {colours, alphas} = entry[state];
  let next = 0;
  to.push(entry);
  each(entry.box, entry.bits, width, at => {
    for (let c = 0; c < channels; c++) data[at * channels + c] = colours[next * channels + c];
    if (alpha) alpha[at] = alphas[next];
    next++;
  });
}

async function encode({data, alpha, width, height, channels, chunks}) {
  if (!alpha) return writePng(data, width, height, channels, chunks);
  const joined = new Uint8Array(width * height * (channels + 1));
  for (let at = 0, to = 0; at < alpha.length; at++) {
    for (let c = 0; c < channels; c++) joined[to++] = data[at * channels + c];
    joined[to++] = alpha[at];
  }
  return writePng(joined, width, height, channels + 1, chunks);
}
