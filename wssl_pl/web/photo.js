/* Photos as bytes: what their files say, and their pixels exactly as they are stored. */

export const MEGAPIXELS = 25;
const STRIP = 512;
// Chunks of PNG that stay, as in wssl_pl/inference/metadata.py.
const KEPT = new Set(["cICP", "iCCP", "sRGB", "gAMA", "cHRM", "mDCV", "cLLI", "pHYs"]);
const PYTHON = "use `wssl inpaint` for it";

/** Read a photo, upright: {data, width, height, channels, scale, alpha, chunks, notes}.

    data: RGB, or grey, as interleaved bytes; alpha: bytes, or null where nothing is transparent; chunks: colour profile
    and the like for the PNG; notes: sentences for the user. Rejects with an Error that says why. */
export async function readPhoto(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer()), facts = readHeader(bytes);
  refuseSize(facts.width, facts.height);
  // Known formats keep their colours and the profile; of others the browser makes sRGB.
  const options = {imageOrientation: "from-image", premultiplyAlpha: "none",
    colorSpaceConversion: facts.keepsProfile ? "none" : "default"};
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, options);
  } catch {
    throw new Error("That is not an image that this browser reads, or it is damaged: JPEG, PNG and WebP always work");
  }
  const {width, height} = bitmap;
  refuseSize(width, height);
  const channels = facts.grey ? 1 : 3;
  if (facts.profile) facts.chunks.push(["iCCP", await packed(facts.profile)]);
  const photo = {width, height, channels, scale: 255, data: new Uint8Array(width * height * channels),
    alpha: new Uint8Array(width * height), chunks: facts.chunks, notes: facts.notes};
  let strips = canvasStrips, opaque = copyPixels(photo, strips(bitmap));
  // A canvas multiplies colours by alpha, which loses those of transparent pixels.
  if (!opaque) opaque = copyPixels(photo, (strips = textureStrips)(bitmap));
  if (opaque) photo.alpha = null;
  bitmap.close();
  photo.notes.push(...await remarksOnNoise(strips));
  return photo;
}

/** Private windows and protection against fingerprinting change the pixels that a page reads, a little or altogether. */
async function remarksOnNoise(strips) {
  const size = 32, pattern = new ImageData(size, size);
  for (let i = 0; i < pattern.data.length; i++) pattern.data[i] = i % 4 === 3 ? 255 : (i * 37 >> 2) & 255;
  const bitmap = await createImageBitmap(pattern);
  let most = 0;
  for (const [top, values] of strips(bitmap)) {
    values.forEach((value, i) => { most = Math.max(most, Math.abs(value - pattern.data[top * size * 4 + i])); });
  }
  bitmap.close();
  const why = "This browser changes the pixels that a page reads (protection against fingerprinting)";
  if (most > 4) throw new Error(`${why}: allow this page to read them, use another browser, or ${PYTHON}`);
  return most ? [`${why}: what is not painted can differ from the photo by ${most} of 255.`] : [];
}

function refuseSize(width, height) {
  if (!(width * height > MEGAPIXELS * 1e6)) return;
  const size = Math.round(width * height / 1e6);
  throw new Error(`The photo has ${size} megapixels, more than ${MEGAPIXELS}: make it smaller, or ${PYTHON}`);
}

function copyPixels(photo, strips) {
  const {data, alpha, channels, width} = photo;
  let opaque = true;
  for (const [top, values] of strips) {
    for (let i = 0, at = top * width; i < values.length; i += 4, at++) {
      for (let c = 0; c < channels; c++) data[at * channels + c] = values[i + c];
      if ((alpha[at] = values[i + 3]) < 255) opaque = false;
    }
  }
  return opaque;
}

function* canvasStrips(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, Math.min(STRIP, bitmap.height));
  const context = canvas.getContext("2d", {willReadFrequently: true});
  for (let top = 0; top < bitmap.height; top += STRIP) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, -top);
    yield [top, context.getImageData(0, 0, bitmap.width, Math.min(STRIP, bitmap.height - top)).data];
  }
}

function* textureStrips(bitmap) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || bitmap.width > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    throw new Error("The photo is transparent in parts, and this browser cannot keep those as they are (no WebGL): " +
      "save it without transparency");
  }
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  for (let top = 0; top < bitmap.height; top += STRIP) {
    const rows = Math.min(STRIP, bitmap.height - top), values = new Uint8Array(bitmap.width * rows * 4);
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_SKIP_ROWS, top);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, bitmap.width, rows, 0, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    gl.readPixels(0, 0, bitmap.width, rows, gl.RGBA, gl.UNSIGNED_BYTE, values);
    gl.deleteTexture(texture);
    yield [top, values];
  }
}

/** What a file says: {width, height, grey, keepsProfile, profile, chunks, notes}; sizes of PNG and JPEG alone. */
export function readHeader(bytes) {
  const facts = {grey: false, keepsProfile: true, chunks: [], notes: []};
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  if (text(1, 3) === "PNG") readPng(bytes, view, text, facts);
  else if (bytes[0] === 0xff && bytes[1] === 0xd8) readJpeg(bytes, view, text, facts);
  else if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") readWebp(bytes, view, text, facts);
  else if (text(0, 3) === "GIF") throw new Error("That is a GIF, which may be an animation: save it as PNG");
  else facts.keepsProfile = false;
  return facts;
}

function readPng(bytes, view, text, facts) {
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    const name = text(at + 4, 4), start = at + 8;
    if (name === "IDAT" || start + view.getUint32(at) > bytes.length) break;
    if (name === "IHDR") {
      facts.width = view.getUint32(start);
      facts.height = view.getUint32(start + 4);
      facts.grey = [0, 4].includes(bytes[start + 9]);
      if (bytes[start + 8] === 16) {
        throw new Error("The photo has 16 bits a channel, and this page keeps only 8: save it with 8, or " + PYTHON);
      }
    }
    if (name === "acTL") throw new Error("That is an animation: save a single image of it");
    if (KEPT.has(name)) facts.chunks.push([name, bytes.slice(start, start + view.getUint32(at))]);
  }
}

function readJpeg(bytes, view, text, facts) {
  const parts = [];
  let components = 3;
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda;) {
    const marker = bytes[at + 1];
    if (marker === 0xff) { at++; continue; }   // padding
    const length = view.getUint16(at + 2);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker) && at + 9 < bytes.length) {
      facts.height = view.getUint16(at + 5);
      facts.width = view.getUint16(at + 7);
      components = bytes[at + 9];
    }
    if (marker === 0xe2 && text(at + 4, 12) === "ICC_PROFILE\0") {
      parts[bytes[at + 16]] = bytes.slice(at + 18, at + 2 + length);
    }
    at += 2 + length;
  }
  facts.grey = components === 1;
  if (components === 4) {
    facts.keepsProfile = false;
    facts.notes.push("The photo is CMYK; the result is RGB, as this browser converts it.");
  }
  keepProfile(facts, new Uint8Array(parts.flatMap(part => [...part])));
}

function readWebp(bytes, view, text, facts) {
  for (let at = 12; at + 8 <= bytes.length; at += 8 + view.getUint32(at + 4, true) + view.getUint32(at + 4, true) % 2) {
    const name = text(at, 4);
    if (name === "VP8X" && bytes[at + 8] & 2) throw new Error("That is an animation: save a single image of it");
    if (name === "ICCP") keepProfile(facts, bytes.slice(at + 8, at + 8 + view.getUint32(at + 4, true)));
  }
}

function keepProfile(facts, profile) {
  const space = String.fromCharCode(...profile.subarray(16, 20));
  if (facts.keepsProfile && space === (facts.grey ? "GRAY" : "RGB ")) facts.profile = profile;
}

/** What an iCCP chunk of a PNG holds. */
async function packed(profile) {
  const stream = new Blob([profile]).stream().pipeThrough(new CompressionStream("deflate"));
  const parts = [new TextEncoder().encode("profile\0\0"), await new Response(stream).arrayBuffer()];
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
