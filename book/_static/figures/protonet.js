"use strict";
// The book's prototypical network in the page (Snell, Swersky and Zemel, 2017), for the figures that need one.
// Its weights come from protonet-weights.js, which the build writes (book/_ext/live_figures.py).

(() => {
  const SIDE = 28; // of a picture

  // Four times a 3 × 3 convolution, batch normalisation, ReLU, and the largest of each 2 × 2.

  function fromHalf(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  }

  // Filters in half precision, one block after another; then each filter's scale and shift, the batch normalisation.
  function unpack({ filters, affine }) {
    const all = Float64Array.from(new Uint16Array(live.bytes(filters)), fromHalf), scales = new Float32Array(live.bytes(affine));
    const width = scales.length / 8, blocks = [];
    for (let i = 0, at = 0; i < 4; i++) {
      const inputs = i ? width : 1, size = width * inputs * 9;
      blocks.push({
        inputs, outputs: width, filters: all.subarray(at, at + size),
        scale: scales.subarray(2 * i * width, (2 * i + 1) * width),
        shift: scales.subarray((2 * i + 1) * width, (2 * i + 2) * width),
      });
      at += size;
    }
    return blocks;
  }

  function convolved(image, side, inputs, filters) {
    // With a border of zeros no tap needs to look whether it is outside.
    const wide = side + 2, result = new Float64Array(side * side);
    for (let channel = 0; channel < inputs; channel++) {
      const at = channel * wide * wide, k = filters.subarray(9 * channel, 9 * channel + 9);
      for (let y = 0; y < side; y++) {
        for (let x = 0; x < side; x++) {
          const a = at + y * wide + x, b = a + wide, c = b + wide;
          result[y * side + x] += k[0] * image[a] + k[1] * image[a + 1] + k[2] * image[a + 2]
            + k[3] * image[b] + k[4] * image[b + 1] + k[5] * image[b + 2]
            + k[6] * image[c] + k[7] * image[c + 1] + k[8] * image[c + 2];
        }
      }
    }
    return result;
  }

  function bordered(image, side, channels) {
    const wide = side + 2, result = new Float64Array(channels * wide * wide);
    for (let row = 0; row < channels * side; row++) {
      const channel = Math.floor(row / side), y = row % side;
      result.set(image.subarray(row * side, (row + 1) * side), channel * wide * wide + (y + 1) * wide + 1);
    }
    return result;
  }

  function block(image, side, { inputs, outputs, filters, scale, shift }) {
    const half = Math.floor(side / 2), result = new Float64Array(outputs * half * half); // 0, the ReLU
    const source = bordered(image, side, inputs);
    for (let o = 0; o < outputs; o++) {
      const sums = convolved(source, side, inputs, filters.subarray(o * inputs * 9, (o + 1) * inputs * 9));
      for (let y = 0; y < 2 * half; y++) {
        for (let x = 0; x < 2 * half; x++) {
          const at = (o * half + (y >> 1)) * half + (x >> 1);
          result[at] = Math.max(result[at], scale[o] * sums[y * side + x] + shift[o]);
        }
      }
    }
    return result;
  }

  // 64 numbers of a picture of 28 × 28 bytes.
  function embed(pixels) {
    let image = Float64Array.from(pixels, (value) => value / 255), side = SIDE;
    for (const layer of network) {
      image = block(image, side, layer);
      side = Math.floor(side / 2);
    }
    return image;
  }

  // p(k | x) ∝ exp(-‖z - c_k‖²)
  function compare(prototypes, z) {
    const distances = prototypes.map((c) => c.reduce((sum, value, i) => sum + (value - z[i]) ** 2, 0));
    const least = Math.min(...distances), shares = distances.map((d) => Math.exp(least - d));
    const total = shares.reduce((a, b) => a + b, 0);
    return { distances, probabilities: shares.map((share) => share / total) };
  }

  const network = globalThis.protonetWeights ? unpack(globalThis.protonetWeights) : null;
  globalThis.protonet = {
    trained: network !== null,
    embed,
    compare,
    MISSING: "This copy of the book was built without the weights of the network. They are in data/weights of the "
      + "repository, or mlcore run protonet-omniglot-1s --profile record makes them.",
  };
})();
