// A train through the night, drawn anew for each frame: no file of a picture.

const STILL = matchMedia("(prefers-reduced-motion: reduce)");

/** Always the same numbers from 0 to 1. */
function numbers(seed) {
  return () => {
    seed = (seed * 1664525 + 1013904223) % 4294967296;
    return seed / 4294967296;
  };
}

export function play(canvas) {
  const draw = canvas.getContext("2d");
  const { width, height } = canvas;
  const next = numbers(7);
  const stars = Array.from({ length: 90 }, () => ({ x: next() * width, y: next() * height * 0.55, size: 0.5 + next() * 1.3, phase: next() * 6 }));
  const water = height * 0.8;
  const sky = draw.createLinearGradient(0, 0, 0, water);
  sky.addColorStop(0, "#0b1430");
  sky.addColorStop(0.55, "#27305f");
  sky.addColorStop(0.85, "#8a5a7d");
  sky.addColorStop(1, "#e2996f");
  const sea = draw.createLinearGradient(0, water, 0, height);
  sea.addColorStop(0, "#5d5375");
  sea.addColorStop(1, "#0d1730");

  function hills(base, tall, length, shift, colour) {
    draw.fillStyle = colour;
    draw.beginPath();
    draw.moveTo(0, water);
    for (let x = 0; x <= width; x += 6) {
      const at = (x + shift) / length;
      draw.lineTo(x, base - tall * (0.5 + 0.3 * Math.sin(at) + 0.2 * Math.sin(at * 2.3 + 1.7)));
    }
    draw.lineTo(width, water);
    draw.fill();
  }

  function train(seconds) {
    const [cars, long, high] = [7, 92, 26];
    const whole = cars * (long + 5);
    const left = ((seconds * 95) % (width + whole + 240)) - whole;
    const y = water - 33;
    draw.fillStyle = "#151a2e";
    draw.fillRect(0, water - 7, width, 5);
    for (let x = 20; x < width; x += 76) draw.fillRect(x, water - 7, 5, 14);
    for (let car = 0; car < cars; car++) {
      const x = left + car * (long + 5);
      draw.fillStyle = "#1e2746";
      draw.beginPath();
      draw.roundRect(x, y, long, high, car === cars - 1 ? [5, 16, 4, 5] : 5);
      draw.fill();
      for (let window = 0; window < 5; window++) {
        draw.fillStyle = (window + car) % 4 === 1 ? "#8f7a4e" : "#ffd98a";
        draw.fillRect(x + 9 + window * 16.5, y + 7, 10, 8);
        draw.fillStyle = "#ffd98a30";
        draw.fillRect(x + 9 + window * 16.5, water + 9 + 2 * Math.sin(seconds * 3 + x / 30), 10, 13);
      }
    }
    const light = draw.createLinearGradient(left + whole, 0, left + whole + 200, 0);
    light.addColorStop(0, "#fff3c4b0");
    light.addColorStop(1, "#fff3c400");
    draw.fillStyle = light;
    draw.beginPath();
    draw.moveTo(left + whole - 6, y + 16);
    draw.lineTo(left + whole + 200, y - 4);
    draw.lineTo(left + whole + 200, y + 36);
    draw.fill();
  }

  function frame(seconds) {
    draw.fillStyle = sky;
    draw.fillRect(0, 0, width, water);
    for (const star of stars) {
      draw.fillStyle = `rgb(255 255 255 / ${0.35 + 0.35 * Math.sin(seconds + star.phase)})`;
      draw.fillRect(star.x, star.y, star.size, star.size);
    }
    draw.fillStyle = "#fff6dd";
    draw.shadowColor = "#fff6dd";
    draw.shadowBlur = 40;
    draw.beginPath();
    draw.arc(width * 0.78, height * 0.22, 27, 0, 7);
    draw.fill();
    draw.shadowBlur = 0;
    hills(water - 10, height * 0.4, 150, seconds * 3, "#3c3a66");
    hills(water - 4, height * 0.25, 95, seconds * 9 + 400, "#2a2c52");
    hills(water, height * 0.11, 52, seconds * 24 + 90, "#1b1f3d");
    draw.fillStyle = sea;
    draw.fillRect(0, water, width, height - water);
    for (let i = 0; i < 44; i++) {
      const deep = (i * 37) % 44;
      const x = (i * 173 + Math.sin(seconds * 0.7 + i) * 12) % width;
      draw.fillStyle = `rgb(255 226 190 / ${0.05 + 0.1 * Math.abs(Math.sin(seconds + i))})`;
      draw.fillRect(x, water + 4 + deep * 1.8, 24 + deep, 1.6);
    }
    train(seconds);
  }

  let shown = -1;
  function tick(now) {
    // Thirty frames a second are enough.
    if (now - shown > 30) {
      shown = now;
      frame(now / 1000);
    }
    if (!STILL.matches) requestAnimationFrame(tick);
  }
  requestAnimationFrame(tick);
  STILL.addEventListener("change", () => requestAnimationFrame(tick));
}
