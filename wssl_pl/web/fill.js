/* Filling holes of photos of any size: the same arithmetic as wssl_pl/inference (engine.py, tiles.py, pyramid.py,
   seams.py), whose docstrings explain it. Images are {data, width, height, channels, scale}: interleaved values;
   `scale` counts as 1. Masks are {data, width, height}: bytes, 1 is hole. Boxes are {top, left, bottom, right}, the
   ends excluded. */

const CELL = 32, MAX_FRACTION = 0.8, STRIP = 256, MIN_KNOWN = 0.1;

/** Fill the holes of an image in place.

    image: may have `alpha`, bytes: the network does not see the colours of pixels where it is 0.
    network: async (planes, holes, batch, height, width) -> Float32Array, with (batch, 3, height, width) and (batch, 1,
    height, width); sides are at least 32. tiling: the sizes of `Tiling`. progress: called with (pixels done, of how
    many); what it throws ends the work. */
export async function fill(image, mask, network, tiling, progress) {
  const work = parts(mask, image.alpha, tiling), total = count(mask, whole(mask));
  const pixels = work.reduce((sum, {hole}) => sum + count(hole, whole(hole)), 0);
  let done = 0;
  const advance = async more => {
    done = Math.min(pixels, done + more);
    await progress(Math.floor(done * total / pixels), total);
  };
  for (const {box, hole} of work) {
    if (hole === mask) await fillView(image, mask, network, tiling, advance);
    else {
      const view = cut(image, box);
      await fillView(view, hole, network, tiling, advance);
      putBack(view, image, mask, box);
    }
  }
  await advance(pixels);
}

/** The boxes of an image that are filled each on its own, with their holes. */
function parts(mask, alpha, tiling) {
  if (!alpha) return [{box: whole(mask), hole: mask}];
  const unknown = {...mask, data: mask.data.map((hole, at) => hole || !alpha[at] ? 1 : 0)};
  const more = unknown.data.some((hole, at) => hole && !mask.data[at]);
  if (!more || unknown.data.every(Boolean)) return [{box: whole(mask), hole: mask}];
  const boxes = merged(clusters(mask, tiling.margin)).map(group => {
    let reach = Math.max(tiling.margin, group.bottom - group.top, group.right - group.left), box;
    while (count(unknown, box = grown(group, reach, mask)) === area(box)) reach *= 2;
    return box;
  });
  return merged(boxes).map(box => ({box, hole: cut({...unknown, channels: 1}, box)}));
}

/** A copy of a box of an image, or of a mask of one channel. */
function cut({data, width, channels, scale}, {top, left, bottom, right}) {
  const across = (right - left) * channels, part = new data.constructor((bottom - top) * across);
  for (let y = top; y < bottom; y++) {
    const start = (y * width + left) * channels;
    part.set(data.subarray(start, start + across), (y - top) * across);
  }
  return {data: part, width: right - left, height: bottom - top, channels, scale};
}

/** Copy the hole's pixels of a box back into its image. */
function putBack(view, image, mask, {top, left}) {
  const {width, channels} = image;
  for (let at = 0; at < view.width * view.height; at++) {
    const to = (top + Math.floor(at / view.width)) * width + left + at % view.width;
    for (let c = 0; c < channels && mask.data[to]; c++) image.data[to * channels + c] = view.data[at * channels + c];
  }
}

async function fillView(image, mask, network, tiling, advance) {
  const longest = Math.max(image.width, image.height);
  if (longest <= tiling.whole && largest(distances(mask, whole(mask))) <= 1.25 * tiling.radius) {
    const [output] = await predict(image, mask, [whole(mask)], network, tiling.seam);
    for (let at = 0; at < mask.data.length; at++) {
      if (mask.data[at]) for (let c = 0; c < image.channels; c++) put(image, at, c, output[at * image.channels + c]);
    }
  } else {
    await fillInTiles(image, mask, network, tiling, advance);
  }
}

async function fillInTiles(image, mask, network, tiling, advance) {
  const groups = clusters(mask, tiling.margin);
  const rim = {data: new Uint8Array(mask.data.length), width: mask.width, height: mask.height};
  const deep = [], coarse = [];
  for (const group of groups) {
    const depth = addRim(rim, mask, group, tiling.radius);
    deep.push(depth > tiling.radius);
    if (depth > tiling.radius) {
      const levels = Math.ceil(Math.log2(depth / tiling.radius));
      coarse.push(grown(group, tiling.margin * 2 ** levels, mask));
    }
  }
  for (const box of merged(coarse)) {
    const [small, holes] = halve(image, mask, box);
    await fillInTiles(small, holes, network, tiling, () => advance(0));
    paste(small, image, mask, box);
  }
  for (const [index, group] of groups.entries()) {
    for (const batch of batches(tiles(rim, group, tiling), tiling.batch)) {
      const outputs = await predict(image, rim, batch.map(tile => tile.window), network, tiling.seam);
      batch.forEach((tile, at) => {
        const distance = deep[index] ? distancesWithin(mask, tile.support, tiling.radius) : null;
        blend(tile, outputs[at], distance, image, rim, tiling);
      });
      await advance(batch.reduce((sum, tile) => sum + count(rim, tile.support), 0));
    }
  }
}

function blend({window, support, fadeTop, fadeLeft}, output, distance, image, rim, {soft, radius}) {
  const {channels, scale, width} = image, across = window.right - window.left;
  const rows = ramp(support.top, support.bottom, fadeTop, soft);
  const columns = ramp(support.left, support.right, fadeLeft, soft);
  for (let y = support.top, i = 0; y < support.bottom; y++) {
    for (let x = support.left; x < support.right; x++, i++) {
      const at = y * width + x;
      if (!rim.data[at]) continue;
      let weight = rows[y - support.top] * columns[x - support.left];
      if (distance) weight *= ease(2 - 2 * distance[i] / radius);   // 1 in the outer half of the rim, then falling to 0
      const from = ((y - window.top) * across + x - window.left) * channels;
      for (let c = 0; c < channels; c++) {
        const present = image.data[at * channels + c] / scale;
        put(image, at, c, present + weight * (output[from + c] - present));
      }
    }
  }
}

/** Set a value, given in [0, 1]; whole numbers are rounded as NumPy does it. */
function put(image, at, channel, value) {
  if (image.scale !== 1) {
    value = Math.fround(Math.fround(value) * image.scale);
    const rounded = Math.round(value);
    value = Math.min(Math.max(rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded, 0), image.scale);
  }
  image.data[at * image.channels + channel] = value;
}

/** The predictions for windows of one size: for each the interleaved values in [0, 1], with the seams corrected. */
async function predict(image, mask, windows, network, seam) {
  const {channels, scale} = image;
  const height = windows[0].bottom - windows[0].top, width = windows[0].right - windows[0].left;
  const rows = padding(height), columns = padding(width);   // the graph is made for sides of 32 and more
  const area = rows.length * columns.length;
  const planes = new Float32Array(windows.length * 3 * area), holes = new Float32Array(windows.length * area);
  windows.forEach(({top, left}, number) => {
    let to = 0;
    for (const row of rows) {
      for (const column of columns) {
        const at = (top + row) * image.width + left + column;
        holes[number * area + to] = mask.data[at];
        for (let plane = 0; plane < 3 && !mask.data[at]; plane++) {
          planes[(number * 3 + plane) * area + to] = image.data[at * channels + Math.min(plane, channels - 1)] / scale;
        }
        to++;
      }
    }
  });
  const output = await network(planes, holes, windows.length, rows.length, columns.length);
  const before = [rows, columns].map(each => (each.length - (each === rows ? height : width)) >> 1);
  return windows.map((_, number) => {
    const inside = (plane, values) => {
      const part = new Float32Array(height * width);
      for (let y = 0; y < height; y++) {
        const start = plane * area + (y + before[0]) * columns.length + before[1];
        part.set(values.subarray(start, start + width), y * width);
      }
      return part;
    };
    let outputs = [0, 1, 2].map(plane => inside(number * 3 + plane, output));
    if (channels === 1) outputs = [outputs[0].map((value, at) => (value + outputs[1][at] + outputs[2][at]) / 3)];
    if (seam > 0) {
      const known = inside(number, holes).map(hole => 1 - hole);
      const errors = outputs.map((plane, c) => {
        const given = inside(number * 3 + c, planes);
        return plane.map((value, at) => (given[at] - value) * known[at]);
      });
      const corrections = pushPull(errors, known, width, height, seam);
      outputs.forEach((plane, c) => plane.forEach((value, at) => { plane[at] = value + corrections[c][at]; }));
    }
    const result = new Float32Array(height * width * channels);
    outputs.forEach((plane, c) => plane.forEach((value, at) => { result[at * channels + c] = value; }));
    return result;
  });
}

/** The indices of a side padded to 32: reflected, or repeated where it has too few pixels for one reflection. */
function padding(side) {
  const target = Math.max(side, 32), before = (target - side) >> 1, reflects = target - side - before < side;
  return Int32Array.from({length: target}, (_, at) => {
    const index = at - before;
    if (!reflects) return Math.min(Math.max(index, 0), side - 1);
    return index < 0 ? -index : index >= side ? 2 * side - 2 - index : index;
  });
}

// --- tiles.py ---

export const whole = mask => ({top: 0, left: 0, bottom: mask.height, right: mask.width});
const area = box => (box.bottom - box.top) * (box.right - box.left);

function grown(box, pixels, {height, width}) {
  return {top: Math.max(0, box.top - pixels), left: Math.max(0, box.left - pixels),
    bottom: Math.min(height, box.bottom + pixels), right: Math.min(width, box.right + pixels)};
}

function count(mask, box) {
  let sum = 0;
  for (let y = box.top; y < box.bottom; y++) {
    for (let at = y * mask.width + box.left, end = y * mask.width + box.right; at < end; at++) sum += mask.data[at];
  }
  return sum;
}

export function tightBox(mask, box) {
  const tight = {top: -1, left: box.right, bottom: 0, right: box.left};
  for (let y = box.top; y < box.bottom; y++) {
    const row = mask.data.subarray(y * mask.width + box.left, y * mask.width + box.right);
    const first = row.indexOf(1);
    if (first < 0) continue;
    if (tight.top < 0) tight.top = y;
    tight.bottom = y + 1;
    tight.left = Math.min(tight.left, box.left + first);
    tight.right = Math.max(tight.right, box.left + row.lastIndexOf(1) + 1);
  }
  return tight.top < 0 ? null : tight;
}

export function clusters(mask, margin) {
  const rows = Math.ceil(mask.height / CELL), columns = Math.ceil(mask.width / CELL);
  const side = Math.max(1, Math.floor(margin / CELL)) + 1, before = side >> 1;
  const near = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const cell = {top: row * CELL, left: column * CELL, bottom: Math.min(mask.height, (row + 1) * CELL),
        right: Math.min(mask.width, (column + 1) * CELL)};
      if (!tightBox(mask, cell)) continue;
      // The offsets of cv2.dilate, seen from the cell that is set.
      for (let y = Math.max(0, row - side + 1 + before); y <= Math.min(rows - 1, row + before); y++) {
        for (let x = Math.max(0, column - side + 1 + before); x <= Math.min(columns - 1, column + before); x++) {
          near[y * columns + x] = 1;
        }
      }
    }
  }
  const boxes = [];
  for (const found of components(near, rows, columns)) {
    const box = tightBox(mask, {top: found.top * CELL, left: found.left * CELL,
      bottom: Math.min(mask.height, found.bottom * CELL), right: Math.min(mask.width, found.right * CELL)});
    if (box) boxes.push(box);
  }
  return boxes;
}

/** The boxes of 8-connected parts in OpenCV's order, which looks at blocks of 2 x 2. */
function components(cells, rows, columns) {
  const left = cells.slice(), found = [];
  for (let start = 0; start < left.length; start++) {
    if (!left[start]) continue;
    const box = {top: rows, left: columns, bottom: 0, right: 0, order: Infinity}, waiting = [start];
    left[start] = 0;
    while (waiting.length) {
      const at = waiting.pop(), y = Math.floor(at / columns), x = at % columns;
      box.top = Math.min(box.top, y);
      box.left = Math.min(box.left, x);
      box.bottom = Math.max(box.bottom, y + 1);
      box.right = Math.max(box.right, x + 1);
      box.order = Math.min(box.order, (y >> 1) * columns + (x >> 1));
      for (let j = Math.max(0, y - 1); j <= Math.min(rows - 1, y + 1); j++) {
        for (let i = Math.max(0, x - 1); i <= Math.min(columns - 1, x + 1); i++) {
          if (left[j * columns + i]) { left[j * columns + i] = 0; waiting.push(j * columns + i); }
        }
      }
    }
    found.push(box);
  }
  return found.sort((a, b) => a.order - b.order);
}

function merged(boxes) {
  const result = [];
  const meets = (a, b) => a.top < b.bottom && b.top < a.bottom && a.left < b.right && b.left < a.right;
  for (let box of boxes) {
    for (let meeting; (meeting = result.filter(other => meets(other, box))).length;) {
      for (const other of meeting) {
        result.splice(result.indexOf(other), 1);
        box = {top: Math.min(box.top, other.top), left: Math.min(box.left, other.left),
          bottom: Math.max(box.bottom, other.bottom), right: Math.max(box.right, other.right)};
      }
    }
    result.push(box);
  }
  return result;
}

export function* tiles(mask, box, tiling, fadeTop = null, fadeLeft = null) {
  const {tile: side, margin, soft} = tiling, support = tightBox(mask, box);
  if (!support) return;
  const window = wholeCells(grown(support, margin, mask), mask);
  const down = support.bottom - support.top >= support.right - support.left;
  const middle = down ? (support.top + support.bottom) >> 1 : (support.left + support.right) >> 1;
  const first = {...support}, second = {...support};
  if (down) {
    first.bottom = Math.min(middle + soft, support.bottom);
    second.top = middle;
  } else {
    first.right = Math.min(middle + soft, support.right);
    second.left = middle;
  }
  const longest = Math.max(window.bottom - window.top, window.right - window.left);
  const pays = () => [first, second].map(half => tightBox(mask, half)).filter(Boolean)
    .reduce((sum, half) => sum + area(wholeCells(grown(half, margin, mask), mask)), 0) < MAX_FRACTION * area(window);
  if (longest > side || (longest > 4 * margin && pays())) {
    yield* tiles(mask, first, tiling, fadeTop, fadeLeft);
    yield* tiles(mask, second, tiling, down ? middle : fadeTop, down ? fadeLeft : middle);
  } else {
    yield {window, support, fadeTop, fadeLeft};
  }
}

function* batches(work, pixels) {
  let batch = [], size = [0, 0];
  for (const tile of work) {
    const {window} = tile, height = window.bottom - window.top, width = window.right - window.left;
    const same = height === size[0] && width === size[1];
    if (batch.length && (!same || (batch.length + 1) * height * width > pixels)) {
      yield batch;
      batch = [];
    }
    batch.push(tile);
    size = [height, width];
  }
  if (batch.length) yield batch;
}

function ease(value) {
  value = Math.min(Math.max(value, 0), 1);
  return value * value * (3 - 2 * value);
}

function ramp(start, stop, fade, soft) {
  const weight = at => fade === null ? 1 : ease((start + at - fade + 0.5) / soft);
  return Float32Array.from({length: stop - start}, (_, at) => weight(at));
}

function wholeCells(box, mask) {
  const [top, bottom] = stretched(box.top, box.bottom, mask.height);
  const [left, right] = stretched(box.left, box.right, mask.width);
  return {top, left, bottom, right};
}

function stretched(start, stop, end) {
  const missing = length => (CELL - length % CELL) % CELL;
  stop = Math.min(end, stop + missing(stop - start));
  return [Math.max(0, start - missing(stop - start)), stop];
}

// --- distances to known pixels, as OpenCV's distanceTransform with a 3 x 3 mask ---

const ACROSS = Math.round(0.955 * 65536), DIAGONAL = Math.round(1.3693 * 65536), FAR = 2 ** 31 - 1 - DIAGONAL;

/** The distances in a box, which is all that counts; the longer side where nothing is known. */
export function distances(mask, box) {
  const height = box.bottom - box.top, width = box.right - box.left, stride = width + 2;
  const steps = new Int32Array(stride * (height + 2)).fill(FAR);
  let known = false;
  for (let y = 0; y < height; y++) {
    for (let x = 0, at = (y + 1) * stride + 1; x < width; x++, at++) {
      if (!mask.data[(box.top + y) * mask.width + box.left + x]) {
        steps[at] = 0;
        known = true;
      } else {
        steps[at] = Math.min(steps[at - 1] + ACROSS, steps[at - stride] + ACROSS, steps[at - stride - 1] + DIAGONAL,
          steps[at - stride + 1] + DIAGONAL, FAR);
      }
    }
  }
  const result = new Float32Array(height * width);
  if (!known) return result.fill(Math.max(height, width));
  for (let y = height - 1; y >= 0; y--) {
    for (let x = width - 1, at = (y + 1) * stride + width; x >= 0; x--, at--) {
      steps[at] = Math.min(steps[at], steps[at + 1] + ACROSS, steps[at + stride] + ACROSS,
        steps[at + stride + 1] + DIAGONAL, steps[at + stride - 1] + DIAGONAL);
      result[y * width + x] = steps[at] / 65536;
    }
  }
  return result;
}

function largest(values) {
  let top = 0;
  for (const value of values) if (value > top) top = value;
  return top;
}

function distancesWithin(mask, box, radius) {
  const around = grown(box, Math.floor(radius) + 2, mask), found = distances(mask, around);
  const height = box.bottom - box.top, width = box.right - box.left, across = around.right - around.left;
  const result = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const start = (y + box.top - around.top) * across + box.left - around.left;
    result.set(found.subarray(start, start + width), y * width);
  }
  return result;
}

function addRim(rim, mask, group, radius) {
  let deepest = 0;
  for (let top = group.top; top < group.bottom; top += STRIP) {
    const strip = {...group, top, bottom: Math.min(top + STRIP, group.bottom)};
    const distance = distancesWithin(mask, strip, radius), width = strip.right - strip.left;
    for (let i = 0; i < distance.length; i++) {
      const at = (top + Math.floor(i / width)) * mask.width + strip.left + i % width;
      if (mask.data[at] && distance[i] <= radius) rim.data[at] = 1;
    }
    deepest = Math.max(deepest, largest(distance));
  }
  if (deepest > radius) {
    // Every eighth pixel is enough for the number of halvings.
    const box = grown(group, 8, mask);
    const sample = {width: Math.ceil((box.right - box.left) / 8), height: Math.ceil((box.bottom - box.top) / 8)};
    sample.data = new Uint8Array(sample.width * sample.height);
    for (let i = 0; i < sample.data.length; i++) {
      const y = box.top + 8 * Math.floor(i / sample.width), x = box.left + 8 * (i % sample.width);
      sample.data[i] = mask.data[y * mask.width + x];
    }
    deepest = Math.max(radius * (1 + Number.EPSILON), 8 * largest(distances(sample, whole(sample))));
  }
  return deepest;
}

// --- pyramid.py ---

/** A box of an image and of its mask at half the size, from known pixels alone. */
function halve(image, mask, box) {
  const {channels, scale} = image, height = (box.bottom - box.top + 1) >> 1, width = (box.right - box.left + 1) >> 1;
  const small = {data: new Float32Array(height * width * channels), width, height, channels, scale: 1};
  const holes = {data: new Uint8Array(height * width), width, height};
  const sums = new Float64Array(channels);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      let known = 0;
      sums.fill(0);
      for (let j = box.top + 2 * y; j < Math.min(box.top + 2 * y + 2, box.bottom); j++) {
        for (let i = box.left + 2 * x; i < Math.min(box.left + 2 * x + 2, box.right); i++) {
          const from = j * image.width + i;
          if (mask.data[from]) continue;
          known++;
          for (let c = 0; c < channels; c++) sums[c] += image.data[from * channels + c];
        }
      }
      holes.data[at] = known ? 0 : 1;
      for (let c = 0; c < channels && known; c++) small.data[at * channels + c] = sums[c] / (known * scale);
    }
  }
  return [small, holes];
}

/** Fill the hole of a box of an image, in place, from one of half its size, bilinearly. */
function paste(small, image, mask, box) {
  const {channels} = image, {data, width, height} = small;
  for (let y = box.top; y < box.bottom; y++) {
    const row = (y - box.top) >> 1, other = Math.min(Math.max(row + ((y - box.top) % 2 ? 1 : -1), 0), height - 1);
    for (let x = box.left; x < box.right; x++) {
      const at = y * image.width + x;
      if (!mask.data[at]) continue;
      const column = (x - box.left) >> 1;
      const beside = Math.min(Math.max(column + ((x - box.left) % 2 ? 1 : -1), 0), width - 1);
      for (let c = 0; c < channels; c++) {
        const value = (j, i) => data[(j * width + i) * channels + c];
        const near = 0.75 * value(row, column) + 0.25 * value(row, beside);
        const far = 0.75 * value(other, column) + 0.25 * value(other, beside);
        put(image, at, c, 0.75 * near + 0.25 * far);
      }
    }
  }
}

// --- seams.py, with the filters of OpenCV ---

/** Known values averaged and extended into unknown regions; planes are of height x width values. */
export function pushPull(planes, known, width, height, sigma) {
  if (Math.min(height, width) <= 4) {
    const total = Math.max(known.reduce((sum, value) => sum + value, 0), 1e-6);
    return planes.map(plane => plane.map(() => 0).fill(plane.reduce((sum, value) => sum + value, 0) / total));
  }
  const inRows = blurWeights(width, sigma), inColumns = blurWeights(height, sigma);
  const blurred = plane => resampled(plane, width, inRows, inColumns), density = blurred(known);
  const means = planes.map(plane => blurred(plane).map((value, at) => value / Math.max(density[at], 1e-6)));
  const weight = density.map(value => Math.min(1, value / MIN_KNOWN));
  if (weight.every(value => value === 1)) return means;
  const halfWidth = (width + 1) >> 1, halfHeight = (height + 1) >> 1;
  const across = areaWeights(width, halfWidth), down = areaWeights(height, halfHeight);
  const smaller = plane => resampled(plane, width, across, down);
  const coarse = pushPull(planes.map(smaller), smaller(known), halfWidth, halfHeight, sigma);
  const wider = linearWeights(halfWidth, width), higher = linearWeights(halfHeight, height);
  return means.map((plane, c) => {
    const wide = resampled(coarse[c], halfWidth, wider, higher);
    return plane.map((value, at) => weight[at] * value + (1 - weight[at]) * wide[at]);
  });
}

/** For each result its sources and their weights, in flat arrays; `stops` says where those of each end. */
function flat(found) {
  let sum = 0;
  const all = found.flat(), stops = Int32Array.from(found, each => sum += each.length);
  return {stops, sources: Int32Array.from(all, ([from]) => from), weights: Float64Array.from(all, each => each[1])};
}

/** As OpenCV's GaussianBlur of floats, which takes 4 sigma and reflects without the border itself. */
function blurWeights(size, sigma) {
  const radius = Math.round(8 * sigma + 1) >> 1, kernel = [];
  for (let i = -radius; i <= radius; i++) kernel.push(Math.exp(-i * i / (2 * sigma * sigma)));
  const sum = kernel.reduce((a, b) => a + b);
  return flat(Array.from({length: size}, (_, at) => kernel.map((value, i) => {
    let from = at + i - radius;
    while (size > 1 && (from < 0 || from >= size)) from = from < 0 ? -from : 2 * size - 2 - from;
    return [size > 1 ? from : 0, value / sum];
  })));
}

/** As OpenCV's INTER_AREA. */
function areaWeights(size, target) {
  const scale = size / target;
  return flat(Array.from({length: target}, (_, at) => {
    const start = at * scale, stop = start + scale, cell = Math.min(scale, size - start);
    const last = Math.min(Math.floor(stop), size - 1), first = Math.min(Math.ceil(start), last), found = [];
    if (first - start > 1e-3) found.push([first - 1, (first - start) / cell]);
    for (let from = first; from < last; from++) found.push([from, 1 / cell]);
    if (stop - last > 1e-3) found.push([last, Math.min(stop - last, 1, cell) / cell]);
    return found;
  }));
}

/** As OpenCV's INTER_LINEAR. */
function linearWeights(size, target) {
  return flat(Array.from({length: target}, (_, at) => {
    const place = Math.min(Math.max((at + 0.5) * size / target - 0.5, 0), size - 1), from = Math.floor(place);
    return [[from, 1 - (place - from)], [Math.min(from + 1, size - 1), place - from]];
  }));
}

/** Rows and columns of a plane replaced by weighted sums of them. */
function resampled(plane, width, across, down) {
  const height = plane.length / width, size = across.stops.length;
  const lines = new Float32Array(size * height), result = new Float32Array(size * down.stops.length);
  for (let y = 0, to = 0; y < height; y++) {
    const row = plane.subarray(y * width, (y + 1) * width);
    for (let x = 0, i = 0; x < size; x++, to++) {
      let sum = 0;
      for (const stop = across.stops[x]; i < stop; i++) sum += across.weights[i] * row[across.sources[i]];
      lines[to] = sum;
    }
  }
  for (let y = 0, i = 0; y < down.stops.length; y++) {
    const line = result.subarray(y * size, (y + 1) * size);
    for (const stop = down.stops[y]; i < stop; i++) {
      const weight = down.weights[i], from = lines.subarray(down.sources[i] * size, (down.sources[i] + 1) * size);
      for (let x = 0; x < size; x++) line[x] += weight * from[x];
    }
  }
  return result;
}
