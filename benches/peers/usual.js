// The script that tutorials and answers give for a policy server in Node: write on connect, then
// end. It never reads, so it never sees its clients leave either: every connection stays open on
// its side. usage: node usual.js PORT FILE
'use strict';
const fs = require('fs');
const net = require('net');

const [port, file] = process.argv.slice(2);
const policy = fs.readFileSync(file);

net.createServer(function (socket) {
  socket.on('error', function () {});
  socket.write(policy);
  socket.end();
}).listen(Number(port), '127.0.0.1');
