using System.Reflection.PortableExecutable;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace OpenSora.Training.Tests;

/// <summary>Compiles the C# blocks of README.md and docs.</summary>
public class SnippetTests
{
    private const string Context = "<!-- compiled with: using System.Text; var text = new StringBuilder(); class Step { public int Number; } -->";

    private static readonly Lazy<Dictionary<string, Snippet>> Documentation = new(() =>
        Pages().SelectMany(page => Snippet.Read(page, File.ReadAllText(Path.Combine(Root(), page)))).ToDictionary(snippet => snippet.Name)
    );

    public static IEnumerable<TheoryDataRow<string>> Blocks() => Documentation.Value.Keys.Select(name => new TheoryDataRow<string>(name));

    [Theory]
    [MemberData(nameof(Blocks))]
    public void A_block_of_the_documentation_compiles(string block) =>
        Documentation
            .Value[block]
            .Errors()
            .ShouldBeEmpty($"A comment right before the block may hold what it builds on: {Snippet.CommentStart} int steps = 1; -->");

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

/// <summary>A text of a page.</summary>
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
internal sealed partial record Snippet(string Page, int Number, Part Context, Part Code)
{
    public const string CommentStart = "<!-- compiled with:";

    private static readonly Lazy<MetadataReference[]> References = new(FindReferences);

    // What ImplicitUsings adds to a program.
    private static readonly SyntaxTree ImplicitUsings = CSharpSyntaxTree.ParseText(
        """
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

    public static List<Snippet> Read(string page, string markdown)
    {
        var text = new Part(1, markdown.ReplaceLineEndings("\n"));
        var snippets = new List<Snippet>();
        foreach (Match match in Blocks().Matches(text.Text))
        {
            var isCSharp = match.Groups["language"].Value is "csharp" or "cs" or "c#";
            if (match.Groups["stray"].Success || (match.Groups["context"].Success && !isCSharp))
            {
                throw new FormatException(
                    $"{page}:{text[match.Index..].Line}: A comment without a C# block, or a block without an end: {match.Value}"
                );
            }

            if (isCSharp)
            {
                snippets.Add(new Snippet(page, snippets.Count + 1, Group("context"), Group("code")));
            }

            Part Group(string name) => text[match.Groups[name].Index..(match.Groups[name].Index + match.Groups[name].Length)];
        }

        return snippets;
    }

    /// <summary>The compiler's errors, with their lines in the page.</summary>
    public string[] Errors()
    {
        var tree = CSharpSyntaxTree.ParseText(Source());
        var isProgram = tree.GetCompilationUnitRoot().Members.OfType<GlobalStatementSyntax>().Any();
        var options = new CSharpCompilationOptions(
            isProgram ? OutputKind.ConsoleApplication : OutputKind.DynamicallyLinkedLibrary,
            nullableContextOptions: NullableContextOptions.Enable
        );
        return
        [
            .. CSharpCompilation
                .Create("Snippet", [ImplicitUsings, tree], References.Value, options)
                .GetDiagnostics()
                .Where(diagnostic => diagnostic.Severity == DiagnosticSeverity.Error)
                .Select(error =>
                {
                    var place = error.Location.GetMappedLineSpan();
                    return $"{place.Path}:{place.StartLinePosition.Line + 1}: {error.Id}: {error.GetMessage()}";
                }),
        ];
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
            ((?> <!--\ compiled\ with: (?<context> (?s:.*?) ) --> ) \s* )?
              ^[ ]* (?<fence> `{3,} ) [ ]* (?<language> [^`\s]* ) [^`\n]* \n (?<code> (.*\n)*? ) [ ]* \k<fence> `* [ ]* $
            | (?<stray> <!--\ compiled\ with: .* )
            | (?<stray> ^[ ]* `{3,} [^`\n]* $ )
            """,
        RegexOptions.Multiline | RegexOptions.ExplicitCapture | RegexOptions.IgnorePatternWhitespace,
        matchTimeoutMilliseconds: 10_000
    )]
    private static partial Regex Blocks();
}
