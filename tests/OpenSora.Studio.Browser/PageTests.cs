using System.Text.RegularExpressions;
using Deque.AxeCore.Playwright;
using Microsoft.Playwright;
using OpenSora.Studio.Tests;
using static Microsoft.Playwright.Assertions;

namespace OpenSora.Studio.Browser;

/// <summary>The page in headless Chromium, with a generator that draws at once. Screenshots go to out/studio/.</summary>
public sealed class PageTests : IAsyncLifetime
{
    private static readonly string Screenshots = Directory.CreateDirectory(Path.Combine(Root(), "out", "studio")).FullName;

    private IPlaywright _playwright = null!;
    private IBrowser _browser = null!;

    public async ValueTask InitializeAsync()
    {
        _playwright = await Playwright.CreateAsync();
        var path = new[] { "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome" }.FirstOrDefault(File.Exists);
        _browser = await _playwright.Chromium.LaunchAsync(new() { ExecutablePath = path });
    }

    public async ValueTask DisposeAsync()
    {
        await _browser.DisposeAsync();
        _playwright.Dispose();
    }

    [Theory]
    [InlineData("desktop", "light")]
    [InlineData("desktop", "dark")]
    [InlineData("phone", "light")]
    [InlineData("phone", "dark")]
    public async Task Every_state_is_accessible_and_fits_the_screen(string device, string scheme)
    {
        await using var studio = await RunningStudio.StartAsync();
        var page = await OpenAsync(studio, device, scheme);
        await Expect(page.GetByText("No videos yet")).ToBeVisibleAsync();
        await CheckAsync("empty");

        await GenerateAsync(page, "hold a small red kite over the sea");
        await Expect(Card(page, "kite")).ToContainTextAsync("Drawing 12 of 20");
        await GenerateAsync(page, "a goat on a hill");
        await Expect(Card(page, "goat")).ToContainTextAsync("Next in the queue");
        await CheckAsync("running");

        studio.Fake.Release();
        await Expect(Card(page, "goat")).ToContainTextAsync("Finished");
        await GenerateAsync(page, "a giraf in the rain");
        await Expect(Card(page, "giraf")).ToContainTextAsync("The nearest names are 'giraffe'.");
        await CheckAsync("finished");

        await GenerateAsync(page, "refuse to draw this");
        await Expect(Card(page, "refuse")).ToContainTextAsync("Use fewer frames.");
        await CheckAsync("failed");

        async Task CheckAsync(string state)
        {
            await page.ScreenshotAsync(
                new() { Path = Path.Combine(Screenshots, $"{device}-{scheme}-{state}.png"), Animations = ScreenshotAnimations.Disabled }
            );
            (await page.EvaluateAsync<bool>("document.documentElement.scrollWidth <= innerWidth")).ShouldBeTrue("The page scrolls sideways.");
            var violations = (await page.RunAxe()).Violations;
            violations.Select(each => $"{each.Id}: {string.Join(", ", each.Nodes.Select(node => node.Html))}").ShouldBeEmpty();
        }
    }

    [Fact]
    public async Task The_keyboard_alone_is_enough()
    {
        await using var studio = await RunningStudio.StartAsync();
        var page = await OpenAsync(studio, "desktop", "light");
        await page.Keyboard.PressAsync("Tab"); // the link that skips the form
        await page.Keyboard.PressAsync("Tab");
        await Expect(page.GetByLabel("Prompt", new() { Exact = true })).ToBeFocusedAsync();
        await page.Keyboard.TypeAsync("hold a kite");
        await page.Keyboard.PressAsync("Control+Enter");
        await Expect(Card(page, "kite")).ToContainTextAsync("Drawing");
        await TabToAsync("Cancel: hold a kite");
        await page.Keyboard.PressAsync("Enter");
        await Expect(Card(page, "kite")).ToContainTextAsync("Canceled");
        await TabToAsync("Delete: hold a kite");
        await page.Keyboard.PressAsync("Enter");
        await Expect(page.GetByRole(AriaRole.Dialog)).ToContainTextAsync("hold a kite");
        await page.Keyboard.PressAsync("Tab");
        await page.Keyboard.PressAsync("Enter");
        await Expect(page.GetByText("No videos yet")).ToBeVisibleAsync();

        async Task TabToAsync(string name)
        {
            var button = page.GetByRole(AriaRole.Button, new() { Name = name });
            for (var i = 0; i < 40; i++)
            {
                if (await button.EvaluateAsync<bool>("each => each === document.activeElement"))
                {
                    return;
                }

                await page.Keyboard.PressAsync("Tab");
            }

            throw new InvalidOperationException($"The keyboard does not reach '{name}'.");
        }
    }

    [Fact]
    public async Task A_video_is_repeated_with_changes()
    {
        await using var studio = await RunningStudio.StartAsync();
        var page = await OpenAsync(studio, "desktop", "light");
        await page.GetByText("Settings").ClickAsync();
        await page.GetByLabel("Frames", new() { Exact = true }).FillAsync("4");
        await GenerateAsync(page, "a goat");
        await Expect(Card(page, "a goat")).ToContainTextAsync("Finished");
        await page.GetByLabel("Frames", new() { Exact = true }).FillAsync("9");
        await Card(page, "a goat").GetByText("Repeat with changes").ClickAsync();
        await Expect(page.GetByLabel("Frames", new() { Exact = true })).ToHaveValueAsync("4");
        await GenerateAsync(page, "a cat");
        await Expect(Card(page, "a cat")).ToContainTextAsync("Finished");
        var requests = studio.Fake.Requests.ToList();
        (requests[1].Prompt, requests[1].Frames, requests[1].Seed).ShouldBe(("a cat", 4, requests[0].Seed));
        await Expect(page.Locator("video").First).ToHaveJSPropertyAsync("error", null!);
    }

    [Fact]
    public async Task Invalid_settings_are_marked_where_they_are()
    {
        await using var studio = await RunningStudio.StartAsync();
        var page = await OpenAsync(studio, "phone", "light");
        await page.GetByRole(AriaRole.Button, new() { Name = "Generate" }).ClickAsync();
        await Expect(page.GetByLabel("Prompt", new() { Exact = true })).ToBeFocusedAsync();
        await Expect(page.GetByText("Describe the video in a few words.")).ToBeVisibleAsync();
        await page.GetByText("Settings").ClickAsync();
        await page.GetByLabel("Frames", new() { Exact = true }).FillAsync("99");
        await GenerateAsync(page, "a goat");
        await Expect(page.GetByLabel("Frames", new() { Exact = true })).ToHaveAttributeAsync("aria-invalid", "true");
        studio.Fake.Requests.ShouldBeEmpty();
    }

    [Fact]
    public async Task The_history_is_searched_and_survives_a_reload()
    {
        await using var studio = await RunningStudio.StartAsync();
        var page = await OpenAsync(studio, "desktop", "light");
        foreach (var prompt in new[] { "a goat", "a rocket" })
        {
            await GenerateAsync(page, prompt);
            await Expect(Card(page, prompt)).ToContainTextAsync("Finished");
        }

        await page.ReloadAsync();
        await Expect(page.Locator(".job")).ToHaveCountAsync(2);
        await page.GetByLabel("Search the prompts").FillAsync("rock");
        await Expect(page.Locator(".job")).ToHaveCountAsync(1);
        await Expect(Card(page, "a rocket")).ToBeVisibleAsync();
        await page.GetByLabel("Search the prompts").FillAsync("nothing like it");
        await Expect(page.GetByText("No videos match")).ToBeVisibleAsync();
    }

    [Fact]
    public async Task The_limit_of_unfinished_videos_is_explained()
    {
        await using var studio = await RunningStudio.StartAsync(settings: ["MaxJobsPerUser=1"]);
        var page = await OpenAsync(studio, "desktop", "light");
        await GenerateAsync(page, "hold a kite");
        await Expect(Card(page, "kite")).ToBeVisibleAsync();
        await GenerateAsync(page, "a goat");
        await Expect(page.GetByRole(AriaRole.Alert)).ToContainTextAsync("as many unfinished videos");
    }

    private async Task<IPage> OpenAsync(RunningStudio studio, string device, string scheme)
    {
        var context = await _browser.NewContextAsync(
            new()
            {
                ViewportSize = device is "phone" ? new() { Width = 390, Height = 844 } : new() { Width = 1280, Height = 860 },
                HasTouch = device is "phone",
                IsMobile = device is "phone",
                ColorScheme = scheme is "dark" ? ColorScheme.Dark : ColorScheme.Light,
                ReducedMotion = ReducedMotion.Reduce,
            }
        );
        var page = await context.NewPageAsync();
        await page.GotoAsync(studio.Address);
        await Expect(page.GetByText("Model: fake")).ToBeVisibleAsync();
        return page;
    }

    private static async Task GenerateAsync(IPage page, string prompt)
    {
        await page.GetByLabel("Prompt", new() { Exact = true }).FillAsync(prompt);
        await page.GetByRole(AriaRole.Button, new() { Name = "Generate" }).ClickAsync();
    }

    private static ILocator Card(IPage page, string prompt) =>
        page.Locator(".job", new() { HasTextRegex = new Regex(Regex.Escape(prompt), RegexOptions.None, TimeSpan.FromSeconds(1)) });

    private static string Root()
    {
        var folder = new DirectoryInfo(AppContext.BaseDirectory);
        while (!File.Exists(Path.Combine(folder.FullName, "OpenSora.Lib.sln")))
        {
            folder = folder.Parent ?? throw new InvalidOperationException("The tests are not in the repository.");
        }

        return folder.FullName;
    }
}
