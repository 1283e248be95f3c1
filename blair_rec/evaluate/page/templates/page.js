// A click, Enter or Space on a heading sorts the table: first numbers from high to low, words from A to Z.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const words = heading.classList.contains("words");
      const rising = heading.ariaSort ? heading.ariaSort === "descending" : words;
      const key = (row) => row.cells[column].dataset.sort;
      const body = table.tBodies[0];
      const sorted = [...body.rows].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === "");
        return (words ? a.localeCompare(b) : a - b) * (rising ? 1 : -1);
      });
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.ariaSort = rising ? "ascending" : "descending";
      body.append(...sorted);
    });
  });
}
