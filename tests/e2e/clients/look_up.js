// Looks its second argument up: by c-ares (`resolve4`) or by the C library (`lookup`), as the first says.
const [how, name] = process.argv.slice(2);
require('dns')[how](name, (error, found) => {
  console.log(error ? error.code : [found].flat()[0]);
  process.exit(error ? 1 : 0);
});
