using System.Reflection.PortableExecutable;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Emit;

namespace OpenSora.Training.Tests;

/// <summary>Compiles the C# blocks of README.md, docs and the readmes of packages, and runs those that are programs and have no comment that says why they are compiled
/// only.</summary>
public class SnippetTests
{
    private const string Context = "<!-- compiled with: using System.Text; var text = new StringBuilder(); class Step { public int Number; } -->";
    private const string Reason = "<!-- compiled only: needs a GPU -->";

    private static readonly Lazy<Dictionary<string, Snippet>> Documentation = new(() =>
        Pages().SelectMany(page => Snippet.Read(page, File.ReadAllText(Path.Combine(Root(), page)))).ToDictionary(snippet => snippet.Name)
    );

    private static readonly Lazy<Task<IReadOnlyDictionary<string, string>>> Results = new(() =>
        SnippetRun.RunAsync([.. Documentation.Value.Values.Where(snippet => snippet.IsRun)])
    );

    public static IEnumerable<TheoryDataRow<string>> Programs() =>
        Documentation.Value.Values.Where(snippet => snippet.IsRun).Select(snippet => new TheoryDataRow<string>(snippet.Name));

    public static IEnumerable<TheoryDataRow<string>> Blocks() => Documentation.Value.Keys.Select(name => new TheoryDataRow<string>(name));

    [Theory]
    [MemberData(nameof(Blocks))]
    public void A_block_of_the_documentation_compiles(string block) =>
        Documentation
            .Value[block]
            .Errors()
            .ShouldBeEmpty($"A comment right before the block may hold what it builds on: {Snippet.CommentStart} int steps = 1; -->");

    [Theory]
    [MemberData(nameof(Programs))]
    public async Task A_program_of_the_documentation_runs(string block) =>
        (await Results.Value)[block].ShouldBeEmpty($"A comment right before the block may say why it is compiled only: {Reason}");

    [Fact]
    public async Task A_program_that_throws_fails_and_the_next_one_runs_in_another_folder()
    {
        const string Page = """
            ```csharp
            using static TorchSharp.torch;
            File.WriteAllText("sum", $"{(ones(2) + 1).sum().item<float>()}");
            throw new NotSupportedException("by design");
            ```
            ```csharp
            await Task.Yield();
            Console.WriteLine(File.ReadAllText("sum"));
            ```
            <!-- compiled with: File.WriteAllText("sum", "4"); -->
            ```csharp
            Console.WriteLine(File.ReadAllText("sum") + args.Length);
            ```
            """;

        var results = await SnippetRun.RunAsync(Snippet.Read("page.md", Page));

        results.Keys.Order(StringComparer.Ordinal).ShouldBe(["page.md#1", "page.md#2", "page.md#3"]);
        results["page.md#1"].ShouldContain("by design");
        results["page.md#1"].ShouldContain("page.md:line 4");
        results["page.md#2"].ShouldContain(nameof(FileNotFoundException));
        results["page.md#3"].ShouldBeEmpty();
    }

    [Theory]
    [InlineData(true, "int steps = 1;")]
    [InlineData(true, "int steps = 1;", Context)]
    [InlineData(false, "int steps = 1;", Reason)]
    [InlineData(false, "int steps = 1;", Context + "\n" + Reason)]
    [InlineData(false, "int steps = 1;", Reason + "\n" + Context)]
    [InlineData(false, "using System.Text;")]
    [InlineData(false, "internal sealed class Steps;")]
    public void Programs_without_a_reason_are_run(bool isRun, string code, string comments = "") =>
        Snippet.Read("page.md", $"{comments}\n```csharp\n{code}\n```").ShouldHaveSingleItem().IsRun.ShouldBe(isRun);

    [Theory]
    [InlineData("int steps = 1;\nConsole.WriteLine(stepz);", 4, "CS0103")]
    [InlineData("using System.Text;\n\nvar steps = 1", 5, "CS1002")]
    [InlineData("using OpenSora.Generations;", 3, "CS0234")]
    [InlineData("var request = new OpenSora.Generation.VideoRequest { Prompt = 1 };", 3, "CS0029")]
    [InlineData("internal sealed class Steps : Undefined;", 3, "CS0246")]
    [InlineData("var header = new OpenSora.Weights.SafetensorsHeader();", 3, "CS0122")] // internal
    public void A_wrong_block_fails(string code, int line, string error) =>
        Errors(code).ShouldHaveSingleItem().ShouldStartWith($"page.md:{line}: {error}: ");

    [Theory]
    [InlineData("using OpenSora.Generation; // only usings")]
    [InlineData("internal sealed class Steps;")]
    [InlineData("[assembly: CLSCompliant(false)]")]
    [InlineData("string? unused = null; Console.WriteLine(unused.Length);")] // warnings
    public void Blocks_without_errors_compile(string code) => Errors(code).ShouldBeEmpty();

    [Fact]
    public void A_comment_holds_what_a_block_builds_on()
    {
        const string Code = "using System.Globalization;\n\ntext.Append(CultureInfo.InvariantCulture, $\"{new Step().Number}\");";

        Errors(Code, Context).ShouldBeEmpty();
        Errors(Code, Context.Replace("; ", ";\n", StringComparison.Ordinal) + "\n").ShouldBeEmpty();
        Errors("text.Append(1);").ShouldHaveSingleItem().ShouldStartWith("page.md:3: CS0103: ");
        Errors("Console.WriteLine(1);", $"{Snippet.CommentStart} int steps = two; -->").ShouldHaveSingleItem().ShouldStartWith("page.md:1: CS0103: ");
    }

    [Theory]
    [InlineData("```csharp\nint steps;\n", 1)]
    [InlineData("\n" + Context + "\nNo block.\n<!-- x -->\n```csharp\n```\n", 2)]
    [InlineData(Context + "\n```json\n{}\n```\n", 1)]
    [InlineData(Reason + "\n```json\n{}\n```\n", 1)]
    [InlineData("\n" + Reason + "\nNo block.\n", 2)]
    [InlineData("<!-- compiled only: -->\n```csharp\n```\n", 1)]
    public void A_comment_without_a_block_and_a_block_without_an_end_are_errors(string page, int line) =>
        Should.Throw<FormatException>(() => Snippet.Read("page.md", page)).Message.ShouldStartWith($"page.md:{line}: ");

    [Fact]
    public void Blocks_are_found_by_their_fences()
    {
        const string Page = """
            ```bash
            dotnet run
            ```
            - an item with `code`
              ```csharp
              int steps;
              ```
            ````cs title="Steps"
            ```
            ````
            """;

        var found = Snippet.Read("page.md", Page.ReplaceLineEndings("\r\n"));

        found.Select(snippet => snippet.Name).ShouldBe(["page.md#1", "page.md#2"]);
        found.Select(snippet => snippet.Code).ShouldBe([new Part(6, "  int steps;\n"), new Part(9, "```\n")]);
    }

    // The first line of the block is line 3 of its page if the comment is one line.
    private static string[] Errors(string code, string comment = "") =>
        Snippet.Read("page.md", $"{comment}\n```csharp\n{code}\n```").ShouldHaveSingleItem().Errors();

    private static IEnumerable<string> Pages() =>
        Directory
            .EnumerateFiles(Path.Combine(Root(), "docs"), "*.md", SearchOption.AllDirectories)
            .Concat(Directory.GetDirectories(Path.Combine(Root(), "src")).Select(project => Path.Combine(project, "README.md")).Where(File.Exists))
            .Select(path => Path.GetRelativePath(Root(), path).Replace('\\', '/'))
            .Order(StringComparer.Ordinal)
            .Prepend("README.md");

    private static string Root()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "OpenSora.Lib.sln")))
        {
            folder = Path.GetDirectoryName(folder)!;
        }

        return folder;
    }
}

/// <summary>A part of a page.</summary>
/// <param name="Line">The number of its first line.</param>
/// <param name="Text">The text.</param>
internal sealed record Part(int Line, string Text)
{
    public Part this[Range range] => new(Line + Text[..range.Start.GetOffset(Text.Length)].Count(c => c == '\n'), Text[range]);
}

/// <summary>A C# block of a Markdown page.</summary>
/// <param name="Page">The page.</param>
/// <param name="Number">The number of the block on the page, from 1.</param>
/// <param name="Context">Code that the page does not show, from the comment before the block.</param>
/// <param name="Code">The block.</param>
/// <param name="Reason">The reason why the block is compiled only, from the comment before the block; null to run it.</param>
internal sealed partial record Snippet(string Page, int Number, Part Context, Part Code, string? Reason)
{
    public const string CommentStart = "<!-- compiled with:";

    private static readonly Lazy<MetadataReference[]> References = new(FindReferences);

    // What ImplicitUsings adds to a program.
    private static readonly SyntaxTree ImplicitUsings = CSharpSyntaxTree.ParseText(
        encoding: System.Text.Encoding.UTF8,
        text: """
        global using System;
        global using System.Collections.Generic;
        global using System.IO;
        global using System.Linq;
        global using System.Net.Http;
        global using System.Threading;
        global using System.Threading.Tasks;
        """
    );

    public string Name => $"{Page}#{Number}";

    /// <summary>Whether the block is a program, not only declarations, and nothing prevents running it.</summary>
    public bool IsRun => Reason is null && Split(Code).Statements.Text.Trim().Length > 0;

    public static List<Snippet> Read(string page, string markdown)
    {
        var text = new Part(1, markdown.ReplaceLineEndings("\n"));
        var snippets = new List<Snippet>();
        foreach (Match match in Blocks().Matches(text.Text))
        {
            var isCSharp = match.Groups["language"].Value is "csharp" or "cs" or "c#";
            var reason = match.Groups["reason"].Success ? match.Groups["reason"].Value.Trim() : null;
            if (match.Groups["stray"].Success || ((match.Groups["context"].Success || reason is not null) && !isCSharp) || reason is "")
            {
                throw new FormatException(
                    $"{page}:{text[match.Index..].Line}: A comment without a C# block or without a reason, or a block without an end: {match.Value}"
                );
            }

            if (isCSharp)
            {
                snippets.Add(new Snippet(page, snippets.Count + 1, Group("context"), Group("code"), reason));
            }

            Part Group(string name) => text[match.Groups[name].Index..(match.Groups[name].Index + match.Groups[name].Length)];
        }

        return snippets;
    }

    /// <summary>Gets the errors of the compiler, with their lines in the page.</summary>
    public string[] Errors() =>
        [
            .. Compile()
                .GetDiagnostics()
                .Where(diagnostic => diagnostic.Severity == DiagnosticSeverity.Error)
                .Select(error =>
                {
                    var place = error.Location.GetMappedLineSpan();
                    return $"{place.Path}:{place.StartLinePosition.Line + 1}: {error.Id}: {error.GetMessage()}";
                }),
        ];

    /// <summary>Writes the compiled block, with symbols, so that exceptions name the line in the page.</summary>
    /// <returns>Whether it compiled.</returns>
    public bool Emit(string path)
    {
        using var file = File.Create(path);
        return Compile(Path.GetFileNameWithoutExtension(path))
            .Emit(file, options: new EmitOptions(debugInformationFormat: DebugInformationFormat.Embedded))
            .Success;
    }

    private CSharpCompilation Compile(string name = "Snippet")
    {
        var tree = CSharpSyntaxTree.ParseText(Source(), encoding: System.Text.Encoding.UTF8);
        var isProgram = tree.GetCompilationUnitRoot().Members.OfType<GlobalStatementSyntax>().Any();
        var options = new CSharpCompilationOptions(
            isProgram ? OutputKind.ConsoleApplication : OutputKind.DynamicallyLinkedLibrary,
            nullableContextOptions: NullableContextOptions.Enable
        );
        return CSharpCompilation.Create(name, [ImplicitUsings, tree], References.Value, options);
    }

    // In C#, usings come first, then statements, then types.
    private string Source()
    {
        var (contextUsings, contextStatements, contextTypes) = Split(Context);
        var (usings, statements, types) = Split(Code);
        Part[] parts = [contextUsings, usings, contextStatements, statements, types, contextTypes];
        return string.Concat(parts.Select(part => $"#line {part.Line} \"{Page}\"\n{part.Text}\n"));
    }

    private static (Part Usings, Part Statements, Part Types) Split(Part part)
    {
        var root = CSharpSyntaxTree.ParseText(part.Text).GetCompilationUnitRoot();
        var usings = root.Usings.FullSpan.End;
        var types = root.Members.FirstOrDefault(member => member is not GlobalStatementSyntax)?.FullSpan.Start ?? part.Text.Length;
        return (part[..usings], part[usings..types], part[types..]);
    }

    private static MetadataReference[] FindReferences() =>
        [
            .. ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!)
                .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
                .Concat(Directory.EnumerateFiles(AppContext.BaseDirectory, "*.dll"))
                .DistinctBy(path => Path.GetFileName(path), StringComparer.OrdinalIgnoreCase)
                .Where(IsManaged)
                .Select(path => MetadataReference.CreateFromFile(path)),
        ];

    private static bool IsManaged(string path)
    {
        using var file = new PEReader(File.OpenRead(path));
        return file.HasMetadata;
    }

    // All fenced blocks, so that none is taken for the end of another. The last two alternatives match what the first one does not.
    [GeneratedRegex(
        """
            ((?> <!--\ compiled\ with: (?<context> (?s:.*?) ) --> | <!--\ compiled\ only: (?<reason> (?s:.*?) ) --> ) \s* ){0,2}
              ^[ ]* (?<fence> `{3,} ) [ ]* (?<language> [^`\s]* ) [^`\n]* \n (?<code> (.*\n)*? ) [ ]* \k<fence> `* [ ]* $
            | (?<stray> <!--\ compiled\ (with|only): .* )
            | (?<stray> ^[ ]* `{3,} [^`\n]* $ )
            """,
        RegexOptions.Multiline | RegexOptions.ExplicitCapture | RegexOptions.IgnorePatternWhitespace,
        matchTimeoutMilliseconds: 10_000
    )]
    private static partial Regex Blocks();
}
