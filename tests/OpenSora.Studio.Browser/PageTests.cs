using System.Text.RegularExpressions;
using Deque.AxeCore.Playwright;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Playwright;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Studio.Jobs;
using OpenSora.Studio.Tests;
using static Microsoft.Playwright.Assertions;

namespace OpenSora.Studio.Browser;

/// <summary>The page in headless Chromium, with a generator that draws at once. Screenshots go to out/studio/.</summary>
public sealed class PageTests : IAsyncLifetime
{
    private static readonly string Screenshots = Directory.CreateDirectory(Path.Combine(Root(), "out", "studio")).FullName;

    // Things that the bundled model knows well.
    private static readonly string[] Subjects = ["a goat", "a rocket", "a red apple", "a smiling cat"];

    private IPlaywright _playwright = null!;
    private IBrowser _browser = null!;

    public async ValueTask InitializeAsync()
    {
        SetDefaultExpectTimeout(20_000); // for slow machines
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
        await using var studio = await RunningStudio.StartAsync(settings: ["MaxJobsPerUser=50", "MaxRequestsPerMinute=1000"]);
        var page = await OpenAsync(studio, device, scheme);
        await Expect(page.GetByText("No videos yet")).ToBeVisibleAsync();
        await CheckAsync("empty");

        await GenerateAsync(page, "hold a small red kite over the sea");
        await Expect(Card(page, "kite")).ToContainTextAsync("Drawing, step 12 of 20");
        await GenerateAsync(page, "a goat on a hill");
        await Expect(Card(page, "goat")).ToContainTextAsync("Next in the queue");
        await CheckAsync("running");

        var store = studio.Services.GetRequiredService<IJobStore>();
        var kite = (await store.FindAsync(await IdAsync(page, "kite")))!;
        await store.ShowProgressAsync(kite, new(GenerationStage.Denoising, 15, 20, 5, 0.7));
        await store.ShowPreviewAsync(kite, 15, await PreviewAsync());
        await Expect(Card(page, "kite").Locator(".preview")).ToHaveJSPropertyAsync("naturalWidth", 64);
        await CheckAsync("preview");

        studio.Fake.Release();
        await Expect(Card(page, "goat")).ToContainTextAsync("Finished");
        await GenerateAsync(page, "a giraf in the rain");
        await Expect(Card(page, "giraf")).ToContainTextAsync("The nearest names are 'giraffe'.");
        await CheckAsync("finished");

        await GenerateAsync(page, "refuse to draw this");
        await Expect(Card(page, "refuse")).ToContainTextAsync("Use fewer frames.");
        await CheckAsync("failed");

        await page.Locator("summary").ClickAsync();
        await page.GetByLabel("Frames", new() { Exact = true }).FillAsync("99");
        await GenerateAsync(page, "");
        await Expect(page.GetByText("Describe the video in a few words.")).ToBeVisibleAsync();
        await CheckAsync("problems");
        await page.GetByRole(AriaRole.Button, new() { Name = "Reset the settings" }).ClickAsync();
        await page.Locator("summary").ClickAsync();

        await Card(page, "refuse").GetByRole(AriaRole.Button, new() { Name = "Delete" }).ClickAsync();
        await CheckAsync("dialog");
        await page.GetByRole(AriaRole.Button, new() { Name = "Keep" }).ClickAsync();

        foreach (var number in Enumerable.Range(1, 27))
        {
            await GenerateAsync(page, number % 5 == 0 ? "break one of many" : $"{Subjects[number % Subjects.Length]}, number {number}");
        }

        await Expect(Card(page, "number 27")).ToContainTextAsync("Finished");
        await page.ReloadAsync();
        await Expect(page.GetByRole(AriaRole.Button, new() { Name = "Show more" })).ToBeVisibleAsync();
        await CheckAsync("many");
        await page.GetByRole(AriaRole.Button, new() { Name = "Show more" }).ClickAsync();
        await Expect(page.Locator(".job")).ToHaveCountAsync(31);

        async Task CheckAsync(string state)
        {
            await page.EvaluateAsync("Promise.all([...document.images].map(each => each.decode().catch(() => {})))");
            await page.ScreenshotAsync(
                new()
                {
                    Path = Path.Combine(Screenshots, $"{device}-{scheme}-{state}.png"),
                    Animations = ScreenshotAnimations.Disabled,
                    FullPage = device is "phone" && state is not "dialog",
                }
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
        await FocusIsVisibleAsync();
        await page.Keyboard.TypeAsync("hold a kite");
        await page.Keyboard.PressAsync("Control+Enter");
        await Expect(Card(page, "kite")).ToContainTextAsync("Drawing");
        await TabToAsync("Cancel: hold a kite");
        await FocusIsVisibleAsync();
        await page.ScreenshotAsync(new() { Path = Path.Combine(Screenshots, "focus.png") });
        await page.Keyboard.PressAsync("Enter");
        await Expect(Card(page, "kite")).ToContainTextAsync("Canceled");
        await TabToAsync("Delete: hold a kite");
        await page.Keyboard.PressAsync("Enter");
        await Expect(page.GetByRole(AriaRole.Dialog)).ToContainTextAsync("hold a kite");
        await page.Keyboard.PressAsync("Tab");
        await page.Keyboard.PressAsync("Enter");
        await Expect(page.GetByText("No videos yet")).ToBeVisibleAsync();

        async Task FocusIsVisibleAsync() =>
            (await page.EvaluateAsync<string>("(s => s.outlineStyle + ' ' + s.outlineWidth)(getComputedStyle(document.activeElement))")).ShouldBe(
                "solid 3px"
            );

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
        await page.Locator("summary").ClickAsync();
        await page.GetByLabel("Frames", new() { Exact = true }).FillAsync("4");
        await GenerateAsync(page, "a goat");
        await Expect(Card(page, "a goat")).ToContainTextAsync("Finished");
        await page.GetByLabel("Frames", new() { Exact = true }).FillAsync("9");
        await Card(page, "a goat").GetByText("Edit and repeat").ClickAsync();
        await Expect(page.GetByLabel("Frames", new() { Exact = true })).ToHaveValueAsync("4");
        await GenerateAsync(page, "a cat");
        await Expect(Card(page, "a cat")).ToContainTextAsync("Finished");
        var requests = studio.Fake.Requests.ToList();
        (requests[1].Prompt, requests[1].Frames, requests[1].Seed).ShouldBe(("a cat", 4, requests[0].Seed));
        var video = page.Locator("video").First;
        await video.EvaluateAsync("each => each.play()"); // fails if the browser cannot decode it
        (await video.EvaluateAsync<int>("each => each.videoWidth")).ShouldBe(256);
    }

    [Fact]
    public async Task An_answer_that_arrives_after_an_event_changes_nothing()
    {
        await using var studio = await RunningStudio.StartAsync();
        var page = await OpenAsync(studio, "desktop", "light");
        await page.RouteAsync("**/api/jobs/*", async route =>
        {
            var answer = await route.FetchAsync(); // the job is waiting
            await Expect(Card(page, "a goat")).ToContainTextAsync("Finished");
            await route.FulfillAsync(new() { Response = answer });
        });
        await GenerateAsync(page, "a goat");
        await Expect(Card(page, "a goat")).ToContainTextAsync("Finished");
        await Expect(page.GetByRole(AriaRole.Button, new() { Name = "Generate" })).ToBeEnabledAsync(); // the answer has arrived
        await Expect(Card(page, "a goat")).ToContainTextAsync("Finished");
        await Expect(page.Locator(".job")).ToHaveCountAsync(1);
    }

    // The pictures of the documentation.
    [Fact]
    public async Task The_bundled_model_draws_what_the_page_asks_for()
    {
        await using var studio = await RunningStudio.StartAsync(isReal: true);
        var desktop = await OpenAsync(studio, "desktop", "light", "stickers");
        foreach (var prompt in Subjects[..^1])
        {
            await GenerateAsync(desktop, prompt);
            await Expect(Card(desktop, prompt)).ToContainTextAsync("Finished", new() { Timeout = 240_000 });
        }

        await GenerateAsync(desktop, Subjects[^1]);
        await Expect(Card(desktop, Subjects[^1])).ToContainTextAsync("Drawing, step");
        await SaveAsync(desktop, "real-desktop-light");
        await Expect(Card(desktop, Subjects[^1])).ToContainTextAsync("Finished", new() { Timeout = 240_000 });
        await desktop.EmulateMediaAsync(new() { ColorScheme = ColorScheme.Dark });
        await SaveAsync(desktop, "real-desktop-dark");
        await desktop.SetViewportSizeAsync(390, 844);
        await SaveAsync(desktop, "real-phone-dark");
        await desktop.EmulateMediaAsync(new() { ColorScheme = ColorScheme.Light });
        await Card(desktop, Subjects[^1]).ScrollIntoViewIfNeededAsync();
        await SaveAsync(desktop, "real-phone-light");

        static Task SaveAsync(IPage page, string name) => page.ScreenshotAsync(new() { Path = Path.Combine(Screenshots, name + ".png") });
    }

    [Fact]
    public async Task Invalid_settings_are_marked_where_they_are()
    {
        await using var studio = await RunningStudio.StartAsync();
        var page = await OpenAsync(studio, "phone", "light");
        await page.GetByRole(AriaRole.Button, new() { Name = "Generate" }).ClickAsync();
        await Expect(page.GetByLabel("Prompt", new() { Exact = true })).ToBeFocusedAsync();
        await Expect(page.GetByText("Describe the video in a few words.")).ToBeVisibleAsync();
        await page.Locator("summary").ClickAsync();
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

    private async Task<IPage> OpenAsync(RunningStudio studio, string device, string scheme, string model = "fake")
    {
        var context = await _browser.NewContextAsync(
            new()
            {
                ViewportSize = device is "phone" ? new() { Width = 360, Height = 740 } : new() { Width = 1280, Height = 860 },
                HasTouch = device is "phone",
                IsMobile = device is "phone",
                ColorScheme = scheme is "dark" ? ColorScheme.Dark : ColorScheme.Light,
                ReducedMotion = ReducedMotion.Reduce,
            }
        );
        var page = await context.NewPageAsync();
        await page.GotoAsync(studio.Address);
        await Expect(page.GetByText($"Model: {model}")).ToBeVisibleAsync();
        return page;
    }

    private static async Task GenerateAsync(IPage page, string prompt)
    {
        await page.GetByLabel("Prompt", new() { Exact = true }).FillAsync(prompt);
        await page.GetByRole(AriaRole.Button, new() { Name = "Generate" }).ClickAsync();
    }

    private static ILocator Card(IPage page, string prompt) =>
        page.Locator(".job", new() { HasTextRegex = new Regex(Regex.Escape(prompt), RegexOptions.None, TimeSpan.FromSeconds(1)) });

    private static async Task<Guid> IdAsync(IPage page, string prompt) => Guid.Parse((await Card(page, prompt).GetAttributeAsync("data-id"))!);

    // A blurred picture of 64x48 pixels.
    private static async Task<Preview> PreviewAsync()
    {
        var (height, width, at) = (48, 64, 0);
        var pixels = new byte[height * width * 3];
        for (var y = 0; y < height; y++)
        {
            for (var x = 0; x < width; x++)
            {
                var near = Math.Exp(-(((x - 20) * (x - 20)) + ((y - 22) * (y - 22))) / 120.0);
                foreach (var (far, color) in new[] { (120, 240), (150, 190), (220, 100) })
                {
                    pixels[at++] = (byte)(far + ((color - far) * near));
                }
            }
        }

        var file = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}.png");
        try
        {
            await new VideoWriter().WriteAsync(new(pixels, 1, height, width, 1), file, VideoFormat.Image);
            return new(await File.ReadAllBytesAsync(file), "image/png");
        }
        finally
        {
            File.Delete(file);
        }
    }

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
