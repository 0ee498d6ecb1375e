// The live status: asks every two seconds, and keeps the last figures on screen when an answer fails to come.

const EVERY_MS = 2000;
// The service itself waits up to 30 s for figures that are behind.
const TIMEOUT_MS = 35000;

const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const element = (id) => document.getElementById(id);

// Never rounded up to 100 % nor down to 0 %: both would say more than is true.
export function percent(fraction) {
  if (fraction === null) return "–";
  if (fraction > 0 && fraction < 0.0005) return "< 0.1";
  if (fraction < 1 && fraction > 0.9995) return "99.9";
  return (fraction * 100).toFixed(1);
}

function setText(id, text) {
  // Unchanged text is left alone, so that screen readers stay quiet.
  if (element(id).textContent !== text) element(id).textContent = text;
}

function showFraction(id, fraction) {
  const text = percent(fraction);
  if (element(id).firstChild?.textContent === text) return;
  const unit = document.createElement("small");
  unit.textContent = fraction === null ? "" : "%";
  element(id).replaceChildren(text, unit);
}

function showBar(id, fractions, label) {
  const bar = element(id);
  bar.setAttribute("aria-label", label);
  fractions.forEach((fraction, index) => {
    bar.children[index].style.width = `${(fraction ?? 0) * 100}%`;
  });
}

function cell(share, fraction) {
  const data = document.createElement("td");
  data.append(`${percent(fraction)}${fraction === null ? "" : " %"}`);
  const count = document.createElement("small");
  count.textContent = number.format(share.count);
  data.append(count);
  return data;
}

function versionRow(version) {
  const row = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = version.model_version;
  row.append(
    name,
    cell(version.processed, version.processed.fraction),
    cell(version.correct, version.correct.fraction),
    cell(version.incorrect, version.incorrect.fraction),
    cell(version.corrected, version.corrected.fraction_of_incorrect),
  );
  return row;
}

function waitingRow(what, count, state) {
  const item = document.createElement("li");
  const text = document.createElement("span");
  const figure = document.createElement("b");
  const command = document.createElement("code");
  text.textContent = what;
  figure.textContent = count === 0 ? "none" : number.format(count);
  item.classList.toggle("none", count === 0);
  command.textContent = `truthloop images --state ${state}`;
  item.append(text, figure, command);
  return item;
}

let shown = "";

function show(status) {
  const empty = status.images === 0;
  element("empty").hidden = !empty;
  element("figures").hidden = empty;
  element("explanation").hidden = empty;
  element("synthetic").hidden = !status.synthetic;
  setText("images", `${number.format(status.images)} ${status.images === 1 ? "image" : "images"}`);
  setText("as-of", `Every change until ${clock.format(new Date(status.as_of))} is counted.`);
  document.title = empty ? "Status · Truthloop" : `${percent(status.processed.fraction)} % processed · Truthloop`;

  const { as_of: _, ...figures } = status;
  const now = JSON.stringify(figures);
  if (now === shown) return;
  shown = now;

  const { processed, audited, correct, incorrect, corrected, waiting } = status;
  showFraction("processed-fraction", processed.fraction);
  showBar("processed-bar", [processed.fraction], `${percent(processed.fraction)} % processed`);
  setText("processed-count", number.format(processed.count));
  setText("unprocessed-count", number.format(waiting.unprocessed));

  showFraction("correct-fraction", correct.fraction);
  showBar(
    "correct-bar",
    [correct.fraction, incorrect.fraction],
    `${percent(correct.fraction)} % correct, ${percent(incorrect.fraction)} % incorrect`,
  );
  setText("correct-count", number.format(correct.count));
  setText("incorrect-count", number.format(incorrect.count));
  setText("not-audited-count", number.format(status.images - audited.count));

  showFraction("corrected-fraction", corrected.fraction_of_incorrect);
  showBar("corrected-bar", [corrected.fraction_of_incorrect], `${percent(corrected.fraction_of_incorrect)} % corrected`);
  setText("corrected-count", number.format(corrected.count));
  setText("uncorrected-count", number.format(waiting.uncorrected));
  setText("corrected-of-all", `${percent(corrected.fraction)} %`);

  element("waiting").replaceChildren(
    waitingRow("For the model: no prediction yet", waiting.unprocessed, "unprocessed"),
    waitingRow("For an auditor: predicted, not audited", waiting.unaudited, "unaudited"),
    waitingRow("For an annotator: incorrect, not annotated", waiting.uncorrected, "uncorrected"),
  );
  element("versions").replaceChildren(...status.model_versions.map(versionRow));
  element("not-in-metadata").hidden = status.not_in_metadata === 0;
  setText(
    "not-in-metadata",
    status.not_in_metadata === 1
      ? "1 image id stands in other collections and not in metadata; it is counted nowhere."
      : `${number.format(status.not_in_metadata)} image ids stand in other collections and not in metadata; they are counted nowhere.`,
  );
}

let lastAnswer = null;

function showState(state, text) {
  element("live").dataset.state = state;
  setText("live-text", text);
}

async function ask() {
  try {
    const response = await fetch("api/v1/status", { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" });
    if (response.status === 401) {
      showState("stale", "The sign-in has ended. Open the link that truthloop up --detach prints.");
      return EVERY_MS * 5;
    }
    if (!response.ok) {
      const problem = await response.json().catch(() => ({ title: `HTTP ${response.status}` }));
      throw new Error(problem.title);
    }
    show(await response.json());
    lastAnswer = new Date();
    showState("live", "Live");
  } catch (error) {
    const reason = error instanceof TypeError || error.name === "TimeoutError" ? "No answer from the service" : error.message;
    const kept = lastAnswer ? `; figures of ${clock.format(lastAnswer)}` : "";
    showState("stale", `${reason}${kept}. Trying again …`);
  }
  return EVERY_MS;
}

async function run() {
  for (;;) {
    const pause = await ask();
    // A hidden page asks nobody; it asks at once when it is looked at again.
    await new Promise((resolve) => {
      const timer = setTimeout(wake, pause);
      function wake() {
        if (document.hidden) return;
        clearTimeout(timer);
        document.removeEventListener("visibilitychange", wake);
        resolve();
      }
      document.addEventListener("visibilitychange", wake);
    });
  }
}

run();
