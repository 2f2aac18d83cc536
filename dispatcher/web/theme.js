// Puts the chosen colours on the page before it is drawn, so that it does not flash.
// Invariant: without a choice the page follows the system.
(() => {
  try {
    const chosen = localStorage.getItem('ffpool-theme');
    if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
  } catch {
    // A browser without storage follows the system.
  }
})();
