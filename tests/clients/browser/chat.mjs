// Two people with a web client that knows nothing of this server, in a headless browser: chat.mjs PROGRAM CLIENT.
//
// Prints a line for every step, `ok …` or `FAILED …`. A step builds on those before it, so after a failure the rest is
// not tried, and fails. CLIENT is the folder of a built Cinny.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

import { record, serveClient, startServer } from './surroundings.mjs';

const PASSWORD = 'the password of a test';
const BROWSER = process.env.ALLOD_TEST_BROWSER ?? '/usr/bin/chromium';
const TIMEOUT_MS = Number(process.env.ALLOD_TEST_TIMEOUT_MS ?? 60_000);

/** Answers that say what is not there, which a client asks for on purpose, and which every server gives. */
const EXPECTED = [
  [404, 'M_NOT_FOUND', /\/account_data\/m\./],
  [404, 'M_NOT_FOUND', /\/room_keys\/version$/],
  [404, 'M_NOT_FOUND', /^\/\.well-known\/matrix\/client$/],
  // What has to be proved first.
  [401, undefined, /\/(register|keys\/device_signing\/upload)$/],
];

class Chat {
  constructor(server, site, browser, folder) {
    Object.assign(this, { server, site, browser, folder, log: [], pages: [] });
  }

  async register(name) {
    const body = { username: name, password: PASSWORD, auth: { type: 'm.login.dummy' }, inhibit_login: true };
    const answer = await fetch(`${this.server.url}/_matrix/client/v3/register`, {
      method: 'POST',
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`registering: ${answer.status}`);
  }

  /** A page of a browser of its own, with somebody signed in. */
  async signIn(name, called = name) {
    const context = await this.browser.newContext({ acceptDownloads: true, serviceWorkers: 'allow' });
    context.setDefaultTimeout(TIMEOUT_MS);
    record(context, called, this.server.url, this.log);
    const page = await context.newPage();
    this.pages.push(page);
    await page.goto(this.site.url);
    await page.locator('input[name=usernameInput]').fill(name);
    await page.locator('input[name=passwordInput]').fill(PASSWORD);
    await page.getByRole('button', { name: 'Login' }).click();
    await page.getByText('Create Room').first().waitFor();
    return page;
  }

  async signsIn() {
    await this.register('anna');
    await this.register('bea');
    this.anna = await this.signIn('anna');
    this.bea = await this.signIn('bea');
  }

  async makeRoom(page, name, isEncrypted) {
    await page.goto(`${this.site.url}/home/`);
    await page.getByText('Create Room').first().click();
    const form = page.locator('form.create-room__form');
    await form.locator('input[name=name]').fill(name);
    if (!isEncrypted) {
      await form.locator('.setting-tile', { hasText: 'end-to-end' }).locator('button.toggle').click();
    }
    await form.getByRole('button', { name: 'Create' }).click();
    await composer(page).waitFor();
    await page.getByRole('button', { name: 'Invite Member' }).click();
    const invite = page.locator('.invite-user');
    await invite.locator('input').fill('@bea:localhost');
    await invite.getByRole('button', { name: 'Search' }).click();
    await invite.getByRole('button', { name: 'Invite' }).click();
    await closeDialog(page);
    await this.bea.goto(`${this.site.url}/inbox/invites/`);
    const invitation = this.bea.getByText(name).first();
    await invitation.waitFor();
    await this.bea.getByRole('button', { name: 'Accept' }).first().click();
    await composer(this.bea).waitFor();
  }

  async chatsEncrypted() {
    await this.makeRoom(this.anna, 'The secret room', true);
    await this.anna.getByText('joined the room').nth(1).first().waitFor();
    await say(this.anna, 'Hello Bea');
    await this.bea.getByText('Hello Bea').waitFor();
    await say(this.bea, 'Hello Anna');
    await this.anna.getByText('Hello Anna').waitFor();
    const sent = this.log.filter((entry) => entry.path.includes('/send/m.room.encrypted/'));
    if (sent.length < 2) throw new Error('the messages were not encrypted');
  }

  async sendsAPicture() {
    const file = join(this.folder, 'picture.png');
    // What she sees is a picture as good as any.
    await writeFile(file, await this.anna.screenshot());
    const { width } = this.anna.viewportSize();
    const chooser = this.anna.waitForEvent('filechooser');
    // The button before the composer.
    await composer(this.anna).locator('xpath=preceding::button[1]').click();
    await (await chooser).setFiles(file);
    await this.anna.getByText('Send', { exact: true }).click();
    const shown = this.bea.locator('img[alt="picture.png"], img[title="picture.png"]').first();
    await shown.waitFor();
    await this.bea.waitForFunction(
      (wanted) => [...document.querySelectorAll('img')].some((image) => image.naturalWidth === wanted),
      width,
    );
  }

  async searches() {
    await this.makeRoom(this.anna, 'The open room', false);
    await say(this.anna, 'the needle in the haystack');
    await this.bea.getByText('the needle in the haystack').waitFor();
    await this.bea.goto(`${this.site.url}/home/search/`);
    await this.bea.locator('input[name=searchInput]').fill('needle');
    await this.bea.keyboard.press('Enter');
    await this.bea.getByText('in the haystack').first().waitFor();
  }

  /** Sets cross-signing up; then a second device is signed in, and each of the two compares what the other shows. */
  async verifiesASecondDevice() {
    await openSettings(this.anna, 'Security');
    await this.anna.getByRole('button', { name: 'Setup' }).click();
    await this.anna.getByRole('button', { name: 'Generate Key', exact: true }).click();
    await this.anna.getByText('Please save this security key').waitFor();
    await closeDialog(this.anna);
    this.second = await this.signIn('anna', 'anna, second device');
    await this.anna.locator('.device-manage').getByRole('button', { name: 'Verify' }).click();
    await this.second.getByRole('button', { name: 'Accept' }).click();
    const emojis = [];
    for (const page of [this.anna, this.second]) {
      await page.getByRole('button', { name: 'They match' }).waitFor();
      emojis.push(await page.locator('.emoji-verification__emojis').innerText());
    }
    if (emojis[0] !== emojis[1]) throw new Error(`they see ${emojis[0]} and ${emojis[1]}`);
    for (const page of [this.anna, this.second]) await page.getByRole('button', { name: 'They match' }).click();
    await this.anna.locator('.device-manage').getByText('No unverified sessions').waitFor();
  }

  async logsOut() {
    for (const page of [this.second, this.bea, this.anna]) {
      await openSettings(page);
      await page.getByText('Logout').first().click();
      await page.getByRole('button', { name: 'Logout' }).last().click();
      await page.locator('input[name=usernameInput]').waitFor();
    }
  }

  /** What no other server would have answered. */
  async sawNoErrors() {
    const wrong = this.log.filter(
      ({ status, errcode, path }) =>
        (status === 0 || status >= 400) &&
        !EXPECTED.some(
          ([expected, code, where]) =>
            status === expected && errcode === code && where.test(path.split('?')[0]),
        ),
    );
    const lines = wrong.map((entry) => JSON.stringify(entry));
    if (wrong.length > 0) throw new Error(`${wrong.length} of ${this.log.length} answers:\n${lines.join('\n')}`);
    if (this.log.length < 50) throw new Error(`only ${this.log.length} answers were seen`);
  }
}

async function openSettings(page, tab) {
  if (!(await page.locator('.settings-window').isVisible())) {
    await page.locator('button', { hasText: /^[ab]$/i }).last().click();
  }
  if (tab) await page.locator('.settings-window').getByText(tab, { exact: true }).first().click();
}

function composer(page) {
  return page.locator('[data-slate-editor]');
}

/** With the cross in its corner. */
async function closeDialog(page) {
  const dialogs = page.locator('.ReactModal__Content');
  const open = await dialogs.count();
  await dialogs.last().locator('.header button').last().click();
  await dialogs.nth(open - 1).waitFor({ state: 'detached' });
}

async function say(page, text) {
  await composer(page).click();
  await page.keyboard.type(text);
  await page.keyboard.press('Enter');
}

async function main(program, client) {
  const folder = await mkdtemp(join(tmpdir(), 'allod-browser-'));
  const server = await startServer(program, join(folder, 'data'));
  const site = await serveClient(client, server.url);
  const browser = await chromium.launch({ executablePath: BROWSER, args: ['--no-sandbox'] });
  const chat = new Chat(server, site, browser, folder);
  const steps = ['signsIn', 'chatsEncrypted', 'sendsAPicture', 'searches', 'verifiesASecondDevice', 'logsOut'];
  let failed = false;
  for (const step of [...steps, 'sawNoErrors']) {
    try {
      if (failed && step !== 'sawNoErrors') throw new Error('not tried');
      await chat[step]();
      console.log(`ok browser ${step}`);
    } catch (error) {
      console.log(`FAILED browser ${step}: ${error.message}`);
      if (!failed) await look(chat);
      failed = true;
    }
  }
  if (process.env.ALLOD_TEST_LOG) await writeFile(process.env.ALLOD_TEST_LOG, JSON.stringify(chat.log, null, 1));
  await browser.close();
  site.stop();
  await server.stop();
  await rm(folder, { recursive: true });
  return failed;
}

/** Where a failure left the pages, for who looks into it. */
async function look(chat) {
  const into = process.env.ALLOD_TEST_PICTURES;
  if (!into) return;
  for (const [number, page] of chat.pages.entries()) {
    await page.screenshot({ path: join(into, `${number}.png`) }).catch(() => {});
  }
}

const [program, client] = process.argv.slice(2);
process.exit((await main(program, client)) ? 1 : 0);
