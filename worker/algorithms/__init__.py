"""Learning algorithms: loss and update only. They import no HTTP and no Gymnasium."""
