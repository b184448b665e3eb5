// A WebSocket server as one writes it in Node without any package: what a client says it says back, and each
// client hears what the others say in its room. It knows nothing of any mesh.
'use strict';

const crypto = require('crypto');
const http = require('http');

const rooms = new Map();

// frame wraps a text or bytes; opcodes: 1 text, 2 bytes, 8 close, 10 pong.
function frame(opcode, data) {
  let head;
  if (data.length < 126) {
    head = Buffer.from([0x80 | opcode, data.length]);
  } else if (data.length < 65536) {
    head = Buffer.from([0x80 | opcode, 126, 0, 0]);
    head.writeUInt16BE(data.length, 2);
  } else {
    head = Buffer.alloc(10);
    head[0] = 0x80 | opcode;
    head[1] = 127;
    head.writeBigUInt64BE(BigInt(data.length), 2);
  }
  return Buffer.concat([head, data]);
}

// take reads one frame from the beginning of a buffer, or null if it is not whole yet.
function take(buffer) {
  if (buffer.length < 2) return null;
  let length = buffer[1] & 0x7f;
  let at = 2;
  if (length === 126) {
    if (buffer.length < 4) return null;
    length = buffer.readUInt16BE(2);
    at = 4;
  } else if (length === 127) {
    if (buffer.length < 10) return null;
    length = Number(buffer.readBigUInt64BE(2));
    at = 10;
  }
  if (buffer.length < at + 4 + length) return null;
  const mask = buffer.subarray(at, at + 4);
  const data = Buffer.from(buffer.subarray(at + 4, at + 4 + length));
  for (let i = 0; i < data.length; i++) data[i] ^= mask[i & 3];
  return { final: (buffer[0] & 0x80) !== 0, opcode: buffer[0] & 0x0f, data, rest: buffer.subarray(at + 4 + length) };
}

const server = http.createServer((request, response) => {
  response.end(request.url === '/healthz' ? 'ok\n' : 'ask with an upgrade to WebSocket\n');
});

server.on('upgrade', (request, socket, head) => {
  const key = request.headers['sec-websocket-key'] || '';
  const accept = crypto.createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    `Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
  const room = rooms.get(request.url) || new Set();
  rooms.set(request.url, room);
  room.add(socket);
  let buffer = head;
  let parts = [];
  let kind = 0;
  socket.on('data', (data) => {
    buffer = Buffer.concat([buffer, data]);
    for (let next; (next = take(buffer)) !== null;) {
      buffer = next.rest;
      if (next.opcode === 8) {
        socket.end(frame(8, next.data));
        return;
      }
      if (next.opcode === 9) {
        socket.write(frame(10, next.data));
        continue;
      }
      if (next.opcode === 1 || next.opcode === 2) {
        kind = next.opcode;
        parts = [];
      }
      parts.push(next.data);
      if (!next.final) continue;
      for (const listener of room) listener.write(frame(kind, Buffer.concat(parts)));
    }
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => room.delete(socket));
});

server.listen(Number(process.env.PORT || 8080));
process.on('SIGTERM', () => process.exit(0));
