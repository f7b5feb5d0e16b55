() => {
  // what the page does by itself: keys, and what pictures are called for those who do not see them
  const field = "textarea, select, [contenteditable=true], input:not([type=radio]):not([type=checkbox]):not([type=range])";
  const visible = (id) => document.getElementById(id)?.offsetParent != null;
  const press = (id) => visible(id) && document.querySelector(`button#${id}, #${id} button`)?.click();

  document.documentElement.lang = LANGUAGE;

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
      press(event.shiftKey ? "redo" : "undo");
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

  const name = () => {
    const told = document.getElementById("told")?.textContent.trim();
    document.querySelectorAll("#result img").forEach((image, i) => {
      const alt = i ? told : BEFORE;
      if (told && image.alt !== alt) image.alt = alt;
    });
    document.querySelectorAll(".clickable button:has(img)").forEach((button) => {
      const alt = button.querySelector("img").alt;
      if (alt && button.ariaLabel !== alt) button.ariaLabel = alt;
    });
    const photo = document.querySelector("#photo img");
    if (photo && !photo.alt) photo.alt = BEFORE;
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true, characterData: true });
}
