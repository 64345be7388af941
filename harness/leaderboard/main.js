// Everything begins here: the boards that have rows, and the row that the address names.

const data = JSON.parse(document.getElementById("data").textContent);
const store = openStore(data);
const dialog = makeDialog(document.getElementById("row-dialog"), store);
const boards = { detection: detectionBoard, ssl: sslBoard };
for (const [key, show] of Object.entries(boards)) {
  const board = document.getElementById(`${key}-board`);
  if (board) show(board, store, data[key], dialog);
}
dialog.follow();
