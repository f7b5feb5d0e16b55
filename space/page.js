() => {
  // what the page does by itself: keys, and what pictures are called for those who do not see them
  const field = "textarea, select, [contenteditable=true], input:not([type=radio]):not([type=checkbox]):not([type=range])";
  const visible = (id) => document.getElementById(id)?.offsetParent != null;
  const press = (id) => document.querySelector(`button#${id}, #${id} button`)?.click();

  // another language, without leaving the page: gradio's own words and labels, ours, and what the server says from now on
  const speak = async (link) => {
    const base = document.querySelector("script[type=module][src*='/assets/']").src;
    const core = $CORE && (await import(new URL(`../${$CORE}`, base)).catch(() => null));
    if (!core?.[$SWITCH]) return location.assign(link.href);
    const address = new URL(location.href);
    address.searchParams.set("lang", link.lang);
    history.replaceState(null, "", address);
    document.documentElement.lang = link.lang;
    core[$SWITCH](link.lang);
    document.querySelectorAll("[data-testid=toast-close]").forEach((button) => button.click());  // in the old language
    press("retell");
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("#languages a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    speak(link);
  });

  // gradio's sliders ask for an edit when the pointer lets go of them; keys let go of them, too
  let waiting;
  const released = (slider) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => slider.dispatchEvent(new Event("pointerup", { bubbles: true })), 300);
  };
  const move = (steps) => {
    const slider = document.querySelector("#strength input[type=range]");
    slider.value = Number(slider.value) + steps * Number(slider.step);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    released(slider);
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(field) || !visible("emotion")) return;
    const on = (selector) => event.target.closest?.(selector);
    if (/^[1-8]$/.test(event.key)) {
      document.querySelectorAll("#emotion input")[event.key - 1]?.click();
    } else if (event.key.toLowerCase() === "z") {
      const id = event.shiftKey ? "redo" : "undo";
      if (visible(id)) press(id);
    } else if (/^Arrow/.test(event.key) && !on("input, [role=tab], [role=slider], .slider-wrap, canvas, video")) {
      move(/Up|Right/.test(event.key) ? 1 : -1);
      event.preventDefault();
    }
  });
  document.addEventListener("keyup", (event) => {
    if (/^Arrow|^Page|^Home$|^End$/.test(event.key) && event.target.matches?.("input[type=range]")) released(event.target);
  });
  // a button of a choice that was clicked does not keep the arrow keys to itself; one that was tabbed to does
  document.addEventListener("click", (event) => {
    if (event.detail && event.target.closest(".choices")) setTimeout(() => document.activeElement.blur());
  });

  // on a phone the sliders are below the picture: while they are seen and it is not, it is small in a corner
  const glance = document.body.appendChild(document.createElement("img"));
  glance.id = "glance";
  glance.ariaHidden = "true";
  glance.onclick = () => document.getElementById("result")?.scrollIntoView({ behavior: "smooth", block: "center" });
  const place = (element) => element.getBoundingClientRect();
  const follow = () => {
    const result = document.querySelectorAll("#result img")[1], details = document.getElementById("details-part");
    const shown = innerWidth <= 860 && result?.offsetParent && details?.offsetParent;
    const seen = shown && place(result).bottom < 80 && place(details).top < innerHeight / 3;
    glance.hidden = !seen;
    if (seen && glance.src !== result.src) glance.src = result.src;
  };
  document.addEventListener("scroll", follow, { passive: true });

  const name = () => {
    const told = document.getElementById("told")?.textContent.trim();
    const before = $WORDS[document.documentElement.lang].photo;
    document.querySelectorAll("#result img").forEach((image, i) => {
      const alt = i ? told : before;
      if (told && image.alt !== alt) image.alt = alt;
    });
    document.querySelectorAll(".clickable button:has(img)").forEach((button) => {
      const alt = button.querySelector("img").alt;
      if (alt && button.ariaLabel !== alt) button.ariaLabel = alt;
    });
    const photo = document.querySelector("#photo img");
    if (photo && photo.alt !== before) photo.alt = before;
    follow();
  };
  const changes = { childList: true, subtree: true, characterData: true, attributeFilter: ["src"] };
  new MutationObserver(name).observe(document.body, changes);
}
